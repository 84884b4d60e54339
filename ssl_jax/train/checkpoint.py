"""Checkpoints of the train state: atomic, written in the background, restored onto any mesh.

The only place that imports orbax.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import jax
from orbax.checkpoint import v1 as ocp

from ssl_jax.core.errors import UserError
from ssl_jax.train.state import TrainState

logging.getLogger("absl").setLevel(logging.WARNING)  # orbax tells every stage of every save


@dataclass(frozen=True)
class CheckpointConfig:
    """The section `checkpoint` of a config.

    Attributes:
      every: steps between saves; 0 saves at the end only.
      keep: how many of the newest checkpoints stay.
    """

    every: int = 100
    keep: int = 2

    def __post_init__(self) -> None:
        if self.every < 0 or self.keep < 1:
            raise UserError("checkpoint: every must be >= 0 and keep >= 1")


class Checkpoints:
    """The checkpoints below one folder. A context manager: leaving it waits for what is being
    written.

    Args:
      keep: how many of the newest stay.
      reader: another process may be writing there: nothing is cleaned up, and new ones are seen.
    """

    def __init__(self, folder: Path, keep: int = 2, reader: bool = False):
        self._reader = reader
        self._orbax = ocp.training.Checkpointer(
            folder.absolute(),
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=not reader,
        )

    @property
    def latest(self) -> int | None:
        """The step of the newest complete checkpoint."""
        newest = self._orbax.latest
        return None if newest is None else newest.step

    @property
    def steps(self) -> list[int]:
        """The steps of all complete checkpoints, ascending."""
        if self._reader:
            self._orbax.reload()
        return sorted(checkpoint.step for checkpoint in self._orbax.checkpoints)

    def save(self, step: int, state: TrainState, metadata: Mapping[str, Any]) -> None:
        """Copy `state` off the devices and write it in the background, after any earlier save."""
        self._orbax.wait()
        self._orbax.save_async(step, state, custom_metadata=dict(metadata), force=True)

    def metadata(self, step: int) -> dict[str, Any]:
        """What the checkpoint of `step` says of itself."""
        return dict(self._orbax.metadata(step).custom_metadata or {})

    def restore(self, step: int, abstract: TrainState, placed: TrainState) -> TrainState:
        """The state of `step`, with the shapes of `abstract`, laid out as `placed` says.

        Raises:
          UserError: the checkpoint does not hold such a state.
        """
        target = jax.tree.map(
            lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, placed
        )
        self._orbax.wait()
        try:
            return self._orbax.load(step, target)
        except (ValueError, KeyError, TypeError) as e:
            reason = str(e).strip().splitlines()[0]
            raise UserError(f"checkpoint {step} does not fit this run: {reason}") from e

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._orbax.close()
