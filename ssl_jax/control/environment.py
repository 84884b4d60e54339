"""The interface of environments, and their settings."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ssl_jax.core.config import check
from ssl_jax.core.ranges import Count

EMBEDDED = {"pendulum": "ssl_jax.control.pendulum"}  # name -> module with `load`
SUITE = "ssl_jax.control.suite"  # all other names: DeepMind's control suite


@dataclass(frozen=True)
class ControlConfig:
    """The section `control` of a config, for data that are an environment.

    Attributes:
      side: side in pixels of the frames, which are stored; the method crops its views from them.
      stack: frames of an observation.
      action_repeat: environment steps of an action; one agent step.
      capacity: newest agent steps that batches are drawn from.
      random_steps: agent steps with uniform actions before the first update.
    """

    side: Count = 100
    stack: Count = 3
    action_repeat: Count = 1
    capacity: Count = 100_000
    random_steps: Count = 1000

    def __post_init__(self) -> None:
        check(self, "control")


class Environment(Protocol):
    """A task whose state is seen in pixels. The frames and rewards of an episode are a function of
    its seed and its actions alone, so that an interrupted episode can be repeated.

    Attributes:
      name: name that the user gave.
      version: of what computes the frames; another one is another environment.
      actions: numbers of an action.
      channels: of a frame.
      length: environment steps after which an episode is cut.
    """

    name: str
    version: str
    actions: int
    channels: int
    length: int

    def reset(self, seed: int) -> None:
        """Start the episode of this seed."""
        ...

    def advance(self, action: np.ndarray) -> tuple[float, bool]:
        """Take one environment step with the action (A,), each number in [-1, 1]; return the reward
        and whether the episode ended for good, which a cut does not.
        """
        ...

    def render(self) -> np.ndarray:
        """Draw the state: (side, side, channels) uint8."""
        ...


def load(name: str, side: int) -> Environment:
    """Load an environment by name.

    Raises:
      UserError: there is none, its package is missing, or it cannot render.
    """
    module = importlib.import_module(EMBEDDED.get(name, SUITE))
    return module.load(name, side)  # type: ignore[no-any-return]


class Stacked:
    """An environment with `ControlConfig.action_repeat`, whose observations are stacks of its
    newest frames, the oldest first; before the first frame of an episode there is that frame again.
    """

    def __init__(self, environment: Environment, settings: ControlConfig) -> None:
        self.environment, self._settings = environment, settings
        self.length = -(-environment.length // settings.action_repeat)  # agent steps
        self._frames: list[np.ndarray] = []

    @property
    def frame(self) -> np.ndarray:
        """The newest frame (side, side, C) uint8."""
        return self._frames[-1]

    @property
    def observation(self) -> np.ndarray:
        """The newest frames, (side, side, stack C) uint8."""
        return np.concatenate(self._frames, axis=-1)

    def reset(self, seed: int) -> None:
        """Start the episode of this seed."""
        self.environment.reset(seed)
        self._frames = [self.environment.render()] * self._settings.stack

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        """Take one agent step; return the sum of its rewards and whether the episode ended for
        good.
        """
        total, ended = 0.0, False
        for _ in range(self._settings.action_repeat):
            reward, ended = self.environment.advance(action)
            total += reward
            if ended:
                break
        self._frames = [*self._frames[1:], self.environment.render()]
        return total, ended


def episode_returns(
    make: Callable[[], Stacked],
    act: Callable[[np.ndarray], np.ndarray],
    seeds: Sequence[int],
) -> np.ndarray:
    """Return the sum of rewards (N,) of the episodes of these seeds, which run side by side.

    Args:
      make: makes one environment.
      act: observations (N, side, side, C) uint8 -> actions (N, A).
    """
    environments = [make() for _ in seeds]
    for environment, seed in zip(environments, seeds, strict=True):
        environment.reset(seed)
    totals, over = np.zeros(len(seeds)), np.zeros(len(seeds), bool)
    for _ in range(environments[0].length):
        actions = act(np.stack([environment.observation for environment in environments]))
        for i in np.flatnonzero(~over):
            reward, over[i] = environments[i].step(actions[i])
            totals[i] += reward
        if over.all():
            break
    return totals
