"""Mean return of a method's policy in its environment."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import numpy as np

from ssl_jax.augment.recipes import prepare
from ssl_jax.control.environment import episode_returns
from ssl_jax.control.replay import center_crop
from ssl_jax.core.inputs import View
from ssl_jax.core.ranges import Count
from ssl_jax.data.sources.control import EnvironmentSource
from ssl_jax.evals.base import Protocol, Subject
from ssl_jax.objectives.base import Policy


@dataclass(frozen=True, kw_only=True)
class Episodes(Protocol):
    """Sum of the rewards of whole episodes with the mean action, the mean over episodes and their
    standard deviation. All networks are measured in the same episodes, none of which is trained in.

    Attributes:
      episodes: number of episodes.
    """

    labels: ClassVar[bool] = False
    needs: ClassVar[str] = "an environment, and a method that acts"
    titles: ClassVar[Mapping[str, str]] = {
        "return": "mean return of an episode",
        "std_of_return": "its standard deviation over episodes",
    }
    decides: ClassVar[tuple[str, ...]] = ("return",)

    episodes: Count = 10

    def applies(self, subject: Subject) -> bool:
        encoder, source = subject.encoder, subject.images.test.source
        acts = encoder is not None and encoder.policy is not None
        return acts and isinstance(source, EnvironmentSource)

    def measure(self, subject: Subject) -> dict[str, float]:
        source, view = subject.images.test.source, subject.images.view
        assert isinstance(source, EnvironmentSource) and subject.encoder is not None
        policy = subject.encoder.policy

        def act(observations: np.ndarray) -> np.ndarray:
            images = jax.device_put(center_crop(observations, view.side))
            return np.asarray(jax.device_get(_mean_actions(view, policy, images)))

        seeds = [source.episode_seed(i) for i in range(self.episodes)]
        returns = episode_returns(source.environment, act, seeds)
        return {"return": float(returns.mean()), "std_of_return": float(returns.std())}


@functools.partial(jax.jit, static_argnums=0)
def _mean_actions(view: View, policy: Policy, images: jax.Array) -> jax.Array:
    return policy.actions(prepare(view, images))
