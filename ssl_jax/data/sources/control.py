"""Environments seen in pixels: `control:pendulum`, or a task of DeepMind's control suite."""

import dataclasses
import hashlib
from functools import cached_property

import numpy as np

from ssl_jax.control.environment import ControlConfig, Stacked
from ssl_jax.control.environment import load as load_environment
from ssl_jax.data.sources.base import Source

SEEDS = {"train": 0, "eval": 2**31}  # first seed of the episodes that `read` begins


class EnvironmentSource(Source):
    """An environment as a data set: example i is the first observation of an episode, a stack of
    frames, and there are as many as the replay holds agent steps. A run learns from what its policy
    does there, which `ssl_jax.control.acting` collects.

    Attributes:
      settings: the section `control` of the config.
    """

    def __init__(self, name: str, split: str, settings: ControlConfig | None = None) -> None:
        self.name, self._task, self._split = f"control:{name}", name, split
        self.settings = settings or ControlConfig()
        self.labels, self.class_names = None, ()

    def with_settings(self, settings: ControlConfig) -> "EnvironmentSource":
        """Return the same environment with other settings."""
        return EnvironmentSource(self._task, self._split, settings)

    def environment(self) -> Stacked:
        """Make a new environment.

        Raises:
          UserError: there is none, its package is missing, or it cannot render.
        """
        return Stacked(load_environment(self._task, self.settings.side), self.settings)

    @cached_property
    def _own(self) -> Stacked:
        return self.environment()

    @property
    def actions(self) -> int:  # type: ignore[override]
        """Numbers of an action."""
        return self._own.environment.actions

    def episode_seed(self, index: int) -> int:
        """Return the seed of the episode that example `index` begins."""
        return SEEDS[self._split] + index

    def __len__(self) -> int:
        return self.settings.capacity

    def read(self, index: int) -> np.ndarray:
        self._own.reset(self.episode_seed(index))
        return self._own.observation

    def layout(self) -> str:
        """Digest the name, the version and the settings of the frames."""
        own = self._own.environment
        settings = dataclasses.astuple(self.settings)
        text = repr((own.name, own.version, own.actions, settings))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def load(path: str, split: str) -> EnvironmentSource:
    """Open the environment `path`; it is made when it is first used."""
    return EnvironmentSource(path, split)


def held_out(path: str) -> EnvironmentSource:
    """Open the same environment, whose episodes have other seeds."""
    return EnvironmentSource(path, "eval")


def absolute(path: str) -> str:
    """Return `path` unchanged: it is a name."""
    return path
