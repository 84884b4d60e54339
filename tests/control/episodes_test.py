"""Protocol `episodes`: the mean return of a policy, and its one setting."""

import dataclasses
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from ssl_jax.control.environment import ControlConfig, episode_returns
from ssl_jax.core.inputs import View
from ssl_jax.data.sources.control import EnvironmentSource
from ssl_jax.evals.protocols.episodes import Episodes
from ssl_jax.objectives.base import Policy

SOURCE = EnvironmentSource("pendulum", "eval", ControlConfig(side=16, stack=1, action_repeat=8))


def subject(policy: Policy | None) -> SimpleNamespace:
    images = SimpleNamespace(test=SimpleNamespace(source=SOURCE), view=View(16, recipe="none"))
    return SimpleNamespace(encoder=SimpleNamespace(policy=policy), images=images)


class EpisodesTest(absltest.TestCase):
    def test_the_mean_over_so_many_episodes(self):
        push = Policy({}, lambda params, images, key: jnp.full((len(images), 1), 0.5))
        for count in (1, 3):
            numbers = dataclasses.replace(Episodes(), episodes=count).measure(subject(push))
            returns = episode_returns(
                SOURCE.environment,
                lambda images: np.full((len(images), 1), 0.5),
                [SOURCE.episode_seed(i) for i in range(count)],
            )
            self.assertAlmostEqual(numbers["return"], returns.mean(), places=5)
            self.assertAlmostEqual(numbers["std_of_return"], returns.std(), places=5)

    def test_it_is_for_methods_that_act(self):
        self.assertFalse(Episodes().applies(subject(None)))


if __name__ == "__main__":
    absltest.main()
