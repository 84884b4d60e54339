"""Being asked to end, by SIGTERM, a maintenance notice or Ctrl-C: when, for all processes of a run.

Whoever is asked makes the step it is at, saves, and ends with an exit code that tells why.
"""

import os
import signal
import sys
import threading
from typing import Any, Self

import jax
from jax.experimental import multihost_utils

from ssl_jax.core.watch import INTERRUPTED, PREEMPTED

_SAID = {
    PREEMPTED: "asked to end; the step at hand is finished and saved first",
    INTERRUPTED: "interrupted; the step at hand is finished and saved first (Ctrl-C ends at once)",
}


class Stop:
    """Listens to signals while it is entered, in the main thread: another one cannot. A second
    Ctrl-C ends the process at once.

    With several processes it is JAX's preemption service that hears SIGTERM, or a TPU's maintenance
    notice, in any of them and finds a step that none has passed; Ctrl-C in one is told to it too.

    Attributes:
      code: exit code for what this process was asked, 0 while it was not.
    """

    def __init__(self) -> None:
        self.code = 0
        self._several = jax.process_count() > 1
        self._before: dict[int, Any] = {}

    def due(self, step: int) -> bool:
        """Whether to end at `step`, the same in every process; to be asked once before each."""
        if not self._several:
            return self.code != 0
        if reached := multihost_utils.reached_preemption_sync_point(step):
            self.code = self.code or PREEMPTED
        return reached

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        signals = [signal.SIGINT]
        if self._several:
            _start_preemption_service()
        else:
            signals.append(signal.SIGTERM)
        # Python runs a handler only between two instructions of the main thread, which may compile
        # for minutes; the bytes that the wakeup descriptor gets can be read at once.
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        for number in signals:
            self._before[number] = signal.signal(number, lambda *_: None)
        self._thread = threading.Thread(target=self._listen, name="stop", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._before:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.write(self._pipe[1], bytes(1))  # no signal has the number 0
        self._thread.join()
        for end in self._pipe:
            os.close(end)

    def _listen(self) -> None:
        while number := os.read(self._pipe[0], 1)[0]:
            if number in self._before:
                self._asked(number)

    def _asked(self, number: int) -> None:
        if number == signal.SIGINT and self.code == INTERRUPTED:
            os._exit(INTERRUPTED)
        self.code = INTERRUPTED if number == signal.SIGINT else PREEMPTED
        print(f"\nssl-jax: {_SAID[self.code]}", file=sys.stderr, flush=True)
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)


def _start_preemption_service() -> None:
    """Only now, as it keeps SIGTERM from ending a process that does not ask `due`."""
    from jax._src import distributed

    jax.config.update("jax_enable_preemption_service", True)
    if distributed.global_state.preemption_sync_manager is None:
        distributed.global_state.initialize_preemption_sync_manager()
