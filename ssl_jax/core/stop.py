"""Being asked to end, by SIGTERM, a maintenance notice or Ctrl-C: when, for all processes of a run.

Whoever is asked finishes the step at hand, saves, and ends with an exit code that tells why. What
loses nothing when it is cut short (reading, compiling, measuring) is cut short: `Stop.region`.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import jax
from jax.experimental import multihost_utils

from ssl_jax.core.errors import AtOnce
from ssl_jax.core.watch import INTERRUPTED, PREEMPTED

GRACE = 2.0  # seconds in which the main thread must hear that a region is over
_FIRST = "the step at hand is finished and saved first"
_HOW = {PREEMPTED: ("asked to end", ""), INTERRUPTED: ("interrupted", " (Ctrl-C ends at once)")}
_SHOW_CURSOR = "\x1b[?25h"


class Interrupted(KeyboardInterrupt):
    """Somebody asked to end within a `Stop.region`."""


@dataclass(frozen=True)
class Region:
    """What may be cut short: the words for it, and what is done before the process ends where the
    main thread does not hear.
    """

    text: str
    leave: Callable[[], None]


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
        self._heard: set[int] = set()
        self._region: Region | None = None
        self._cut: Region | None = None  # the one that was cut short
        self._lock = threading.RLock()

    @property
    def cut(self) -> bool:
        """Whether a region was cut short."""
        return self._cut is not None

    def due(self, step: int) -> bool:
        """Whether to end at `step`, the same in every process; to be asked once before each."""
        if not self._several:
            return self.code != 0
        if reached := multihost_utils.reached_preemption_sync_point(step):
            self.code = self.code or PREEMPTED
        return reached

    def check(self) -> None:
        """
        Raises:
          Interrupted: this process, which is alone, was asked to end.
        """
        if self.code and not self._several:
            raise Interrupted

    @contextlib.contextmanager
    def region(self, text: str, leave: Callable[[], None] = lambda: None) -> Iterator[None]:
        """What ends at once when somebody asks to end: `Interrupted` is raised in the main thread.

        A compiler does not hear that. So where the region goes on for `GRACE` seconds, another
        thread calls `leave` and ends the process. With several processes nothing is cut short, as
        all of them must come to the same step.

        Args:
          text: what happens to the run, in words, for the terminal.
          leave: saves what must be saved; called in another thread.
        """
        if self._several or not self._before:
            yield
            return
        try:
            try:
                self._region = Region(text, leave)
                self.check()
                yield
            finally:
                self._close()
        finally:  # once more, should the signal have come within the first one
            self._close()

    def _close(self) -> None:
        with self._lock:  # whoever leaves holds it to the end of the process
            self._region = None

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
            self._before[number] = signal.signal(number, self._handle)
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

    def _handle(self, number: int, *_: Any) -> None:
        """In the main thread, when it hears."""
        self.code = _code(number)
        if self._region is not None and self._cut is None:
            self._cut = self._region  # what follows, a save say, is not cut short
            raise Interrupted

    def _listen(self) -> None:
        while number := os.read(self._pipe[0], 1)[0]:
            if number in self._before:
                self._asked(number)

    def _asked(self, number: int) -> None:
        if number == signal.SIGINT and number in self._heard:
            self._end(INTERRUPTED)
        self._heard.add(number)
        self.code, region = _code(number), self._region or self._cut
        how, hint = _HOW[self.code]
        text = region.text if region else _FIRST
        print(f"\nssl-jax: {how}; {text}{hint}", file=sys.stderr, flush=True)
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)
        elif region:
            deaf = threading.Timer(GRACE, self._leave, (region,))
            deaf.daemon = True
            deaf.start()

    def _leave(self, region: Region) -> None:
        with self._lock:
            if self._region is region:
                try:
                    region.leave()
                except Exception as e:
                    print(f"ssl-jax: {e}", file=sys.stderr, flush=True)
                finally:
                    self._end(self.code)

    def _end(self, code: int) -> None:
        if sys.stdout.isatty():
            sys.stdout.write(_SHOW_CURSOR)  # a live line hides it
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(code)


def interruptible(work: Callable[[], int], text: str) -> int:
    """Call `work`, which loses nothing when it is cut short, and return its exit code, or the one
    for what this process was asked; of several processes each ends as it always would.

    Args:
      text: what is left behind, in words, for the terminal.
    """
    if jax.process_count() > 1:
        return work()
    with Stop() as stop:
        try:
            with stop.region(text):
                return work()
        except Interrupted:
            return AtOnce(stop.code)


def _code(number: int) -> int:
    return INTERRUPTED if number == signal.SIGINT else PREEMPTED


def _start_preemption_service() -> None:
    """Only now, as it keeps SIGTERM from ending a process that does not ask `due`."""
    from jax._src import distributed

    jax.config.update("jax_enable_preemption_service", True)
    if distributed.global_state.preemption_sync_manager is None:
        distributed.global_state.initialize_preemption_sync_manager()
