"""A trace of some steps for XProf (TensorBoard's "Profile" page, or `xprof --logdir=W/profile`)."""

from pathlib import Path

import jax

from ssl_jax.core.errors import UserError


class Profile:
    """Traces the steps `first` to `last - 1` into a folder, without a wait for the device.

    A step is on its way when the loop goes on to the next: the trace ends once the step after the
    last has been dispatched, when the loop has seen the last one end, and so holds all of it.

    Args:
      span: "100:105", or "" for no trace.
      folder: that the trace is written to.
      here: whether this process traces; one of several is enough.

    Raises:
      UserError: `span` is no such range.
    """

    def __init__(self, span: str, folder: Path, here: bool = True):
        first, _, last = span.partition(":")
        if span and not (first.isdigit() and last.isdigit() and int(first) < int(last)):
            raise UserError(f"--profile={span}: expected FIRST:LAST, two steps, as in 100:105")
        self._steps = (int(first), int(last)) if span and here else None
        self._folder, self._on = folder, False

    def at(self, what: str, step: int) -> None:
        """To be told what the loop does next; see `loop.Hooks.at`."""
        if self._steps is None:
            return
        first, last = self._steps
        if what == "data" and first <= step < last and not self._on:
            jax.profiler.start_trace(self._folder)
            self._on = True
        elif self._on and step > last:
            self.close()

    def close(self) -> None:
        """End a trace that is under way: what it holds is written."""
        if self._on:
            jax.profiler.stop_trace()
            self._steps, self._on = None, False
