"""The acting loop: between two training steps the newest policy takes one agent step."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ssl_jax.control.environment import ControlConfig, Stacked
from ssl_jax.control.replay import Replay

# (observation (1, side, side, C) uint8, number of the agent step) -> action (1, A)
Act = Callable[[np.ndarray, int], np.ndarray]
EPISODES, ACTIONS, BATCHES = range(3)  # kinds of random draws


class ActingLoop(Iterator[dict[str, Any]]):
    """Iterator over batches of the replay, which grows by one agent step per batch.

    Step s of the training follows agent step `random_steps` + s, as in the release, and draws from
    all steps so far. Everything is a function of the seed and of the policies: a run that resumes
    reads the replay, repeats the actions of the last episode in a new environment, and goes on.

    Args:
      size: side of the crops in pixels.
      start: number of the first batch.
    """

    bad = 0  # corrupt images

    def __init__(
        self,
        environment: Stacked,
        replay: Replay,
        settings: ControlConfig,
        *,
        seed: int,
        batch_size: int,
        size: int,
        start: int = 0,
    ) -> None:
        self._environment, self._replay, self._settings = environment, replay, settings
        self._seed, self._batch_size, self._size = seed, batch_size, size
        self._next, self._over = start, True
        self._left = 0  # agent steps until the episode is cut
        self._restored = False

    def collect(self, act: Act, step: int) -> None:
        """Act up to training step `step`; at the first call, take up the replay of a run that
        resumes there.

        Raises:
          UserError: the replay lacks steps of that run.
        """
        if not self._restored:
            self._resume(self._settings.random_steps + step if step else 0)
        while self._replay.count <= self._settings.random_steps + step:
            number = self._replay.count
            if self._over:
                self._begin()
            if number < self._settings.random_steps:
                action = self._draws(ACTIONS, number, self._environment.environment.actions)
                action = (2 * action - 1).astype(np.float32)
            else:
                action = act(self._environment.observation[None], number)[0]
            reward, ended = self._environment.step(action)
            self._replay.add(action, reward, ended, self._environment.frame)
            self._count_down(ended)

    def _begin(self) -> None:
        self._replay.save()
        self._environment.reset(self._episode_seed(self._replay.episode + 1))
        self._replay.begin(self._environment.frame)
        self._left, self._over = self._environment.length, False

    def _resume(self, count: int) -> None:
        actions = self._replay.restore(count)
        self._restored = True
        if self._replay.episode < 0:
            return
        self._environment.reset(self._episode_seed(self._replay.episode))
        self._left = self._environment.length
        for action in actions:
            _, ended = self._environment.step(action)
            self._count_down(ended)

    def _count_down(self, ended: bool) -> None:
        self._left -= 1
        self._over = ended or self._left == 0

    def __next__(self) -> dict[str, Any]:
        draws = self._draws(BATCHES, self._next, (self._batch_size, 7))
        self._next += 1
        drawn_batch = self._replay.batch(draws, self._size)
        anchor, positive, following = (
            drawn_batch.pop(name) for name in ("anchor", "positive", "following")
        )
        return {"views": (np.stack([anchor, positive], 1), following[:, None]), **drawn_batch}

    def save(self) -> None:
        """Write what a run that resumes from here needs."""
        self._replay.save()

    def close(self) -> None:
        """Nothing is to be closed; see `Batches.close`."""

    def _draws(self, kind: int, number: int, shape: int | tuple[int, ...]) -> np.ndarray:
        return np.random.default_rng([self._seed, kind, number]).random(shape)

    def _episode_seed(self, number: int) -> int:
        return int(np.random.SeedSequence([self._seed, EPISODES, number]).generate_state(1)[0])
