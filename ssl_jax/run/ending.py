"""Contexts of the work of a run in which a request to end may find it, and what they save first."""

import contextlib
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from rich.console import Console

from ssl_jax.core.stop import GRACE, Stop
from ssl_jax.training.state import TrainState

UNTOUCHED = "nothing was trained yet, so nothing is saved"
SAVED = "nothing was trained since the newest checkpoint, so nothing is saved"
STEP = f"finishing and saving the current step, or in {GRACE:g} s the one before it"


@dataclass(frozen=True)
class Ending:
    """Contexts of the loop's work; see `training.loop.Hooks`.

    Attributes:
      save: (state, step, whether the evaluation due at the step was made) -> nothing.
      finish: waits until all is saved.
    """

    stop: Stop
    mesh: Mesh
    save: Callable[[TrainState, int, bool], None]
    finish: Callable[[], None]
    console: Console

    def interruptible(
        self, state: TrainState | None, step: int, evaluated: bool
    ) -> AbstractContextManager:
        """Return a context in which a request to end saves the state, if any, and ends at once."""
        if state is None:
            return self.stop.region(UNTOUCHED if step == 0 else SAVED)
        text = f"the state of step {step} is saved first"
        return self.stop.region(text, functools.partial(self._leave, state, step, evaluated))

    def long_step(self, state: TrainState, step: int) -> AbstractContextManager:
        """Return a context in which a request to end waits a little for the step. Then the state
        before it is saved, of which a copy is kept on CPUs: they take the longest steps, and have
        the memory.
        """
        if jax.process_count() > 1 or self.mesh.devices.flat[0].platform != "cpu":
            return contextlib.nullcontext()
        leave = functools.partial(self._leave, _copied(state), step, True)
        return self.stop.region(STEP, leave, patient=True)

    def _leave(self, state: TrainState, step: int, evaluated: bool) -> None:
        """Save and finish; called from another thread while the main one is blocked."""
        with jax.set_mesh(self.mesh):
            self.save(state, step, evaluated)
        self.finish()
        self.console.print(f"saved at step {step}; run the same command to resume")


@jax.jit
def _copied(state: TrainState) -> TrainState:
    return jax.tree.map(jnp.copy, state)
