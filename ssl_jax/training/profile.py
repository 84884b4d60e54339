"""A trace of some steps for XProf (TensorBoard's "Profile" page, or `xprof --logdir=W/profile`)."""

from pathlib import Path

import jax

from ssl_jax.core.errors import UserError


class Profile:
    """Traces the steps `first` to `last - 1` into a folder, without waiting for the device.

    A step is still running when the loop moves on to the next: the trace ends once the step after
    the last has been dispatched, when the last one has ended, and so holds all of it.

    Args:
      span: "100:105", or "" for no trace.
      folder: folder that the trace is written to.
      here: whether this process traces; one of several is enough.

    Raises:
      UserError: `span` is not such a range.
    """

    def __init__(self, span: str, folder: Path, here: bool = True):
        first, _, last = span.partition(":")
        if span and not (first.isdigit() and last.isdigit() and int(first) < int(last)):
            raise UserError(f"--profile={span}: expected FIRST:LAST, two steps, as in 100:105")
        self._steps = (int(first), int(last)) if span and here else None
        self._folder, self._on = folder, False

    def at(self, what: str, step: int) -> None:
        """Start or end the trace, given the next activity of the loop; see `loop.Hooks.at`."""
        if self._steps is None:
            return
        first, last = self._steps
        if what == "data" and first <= step < last and not self._on:
            jax.profiler.start_trace(self._folder)
            self._on = True
        elif self._on and step > last:
            self.close()

    def close(self) -> None:
        """End a running trace and write it."""
        if self._on:
            jax.profiler.stop_trace()
            self._steps, self._on = None, False
