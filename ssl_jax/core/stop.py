"""Requests to end a run: SIGTERM, maintenance notices and Ctrl-C, for all of its processes.

After a request the run finishes the current step, saves, and ends with an exit code that gives the
reason. Work that can be interrupted without loss (reading, compiling, measuring, a step that takes
long and whose start is kept) is interrupted: `Stop.region`.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Self

import jax
from jax.experimental import multihost_utils

from ssl_jax.core.errors import AtOnce
from ssl_jax.core.watch import INTERRUPTED, PREEMPTED

GRACE = 2.0  # seconds that the main thread has to leave a region
_FIRST = "finishing and saving the current step first"
_HOW = {PREEMPTED: ("asked to end", ""), INTERRUPTED: ("interrupted", " (Ctrl-C ends at once)")}
_SHOW_CURSOR = "\x1b[?25h"
_guest: ContextVar[bool] = ContextVar("guest", default=False)


@contextlib.contextmanager
def guest() -> Iterator[None]:
    """Context of calls from a process that belongs to somebody else, such as a notebook: a request
    to end never ends the process, only the call. The compiler, which does not react, is waited for.
    """
    token = _guest.set(True)
    try:
        yield
    finally:
        _guest.reset(token)


def is_guest() -> bool:
    """True within `guest`."""
    return _guest.get()


class Interrupted(KeyboardInterrupt):
    """A request to end arrived within a `Stop.region`."""


@dataclass(frozen=True)
class Region:
    """Work that may be interrupted.

    Attributes:
      text: message for the terminal.
      leave: called before the process ends, if the main thread does not react.
      patient: whether the main thread may finish the work, if it does within `GRACE`.
    """

    text: str
    leave: Callable[[], None]
    patient: bool


class Stop:
    """Handler of signals while it is entered in the main thread; other threads cannot handle them.
    A second Ctrl-C ends the process at once; within `guest` it ends the call, without saving.

    With several processes JAX's preemption service receives SIGTERM, or a TPU's maintenance notice,
    in any of them and finds a step that no process has passed; Ctrl-C is forwarded to it.

    Attributes:
      code: exit code for the request that this process received, 0 without any.
    """

    def __init__(self) -> None:
        self.code = 0
        self._several = jax.process_count() > 1
        self._guest = is_guest()
        self._before: dict[int, Any] = {}
        self._heard: set[int] = set()
        self._region: Region | None = None
        self._cut: Region | None = None  # the region that was interrupted
        self._lock = threading.RLock()

    @property
    def cut(self) -> bool:
        """True if a region was interrupted."""
        return self._cut is not None

    def due(self, step: int) -> bool:
        """True if the run ends at `step`, the same in every process; call once before each step."""
        if not self._several:
            return self.code != 0
        if reached := multihost_utils.reached_preemption_sync_point(step):
            self.code = self.code or PREEMPTED
        return reached

    def check(self) -> None:
        """Raise after a request to end.

        Raises:
          Interrupted: this run of a single process received a request to end.
        """
        if self.code and not self._several:
            raise Interrupted

    @contextlib.contextmanager
    def region(
        self, text: str, leave: Callable[[], None] = lambda: None, patient: bool = False
    ) -> Iterator[None]:
        """Mark work that a request ends at once: `Interrupted` is raised in the main thread.

        A compiler does not react to that. So if the region continues for `GRACE` seconds, another
        thread calls `leave` and ends the process. With several processes nothing is interrupted,
        because all of them must reach the same step.

        Args:
          text: message for the terminal: what happens to the run.
          leave: saves everything that must be saved; called in another thread.
          patient: `Interrupted` is raised at the start only: work that ends within `GRACE` is not
            lost.
        """
        if self._several or not self._before:
            yield
            return
        try:
            try:
                self._region = Region(text, leave, patient)
                self.check()
                yield
            finally:
                self._close()
        finally:  # again, in case the signal arrived within the first call
            self._close()

    def _close(self) -> None:
        with self._lock:  # `_leave` holds it until the process ends
            self._region = None

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        signals = [signal.SIGINT]
        if self._several:
            _start_preemption_service()
        elif not self._guest:
            signals.append(signal.SIGTERM)
        # Python runs a handler only between two instructions of the main thread, which may compile
        # for minutes; the bytes of the wakeup descriptor can be read at once.
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
        """Handle a signal in the main thread."""
        again, self.code = self.code != 0, _code(number)
        if again and self._guest:
            raise Interrupted
        if self._region is not None and not self._region.patient and self._cut is None:
            self._cut = self._region  # later work, such as a save, is not interrupted
            raise Interrupted

    def _listen(self) -> None:
        while number := os.read(self._pipe[0], 1)[0]:
            if number in self._before:
                self._respond(number)

    def _respond(self, number: int) -> None:
        if number == signal.SIGINT and number in self._heard:
            if self._guest:
                return
            self._end(INTERRUPTED)
        self._heard.add(number)
        self.code, region = _code(number), self._region or self._cut
        how, hint = _HOW[self.code]
        text = region.text if region else _FIRST
        print(f"\nssl-jax: {how}; {text}{hint}", file=sys.stderr, flush=True)
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)
        elif region and not self._guest:
            timer = threading.Timer(GRACE, self._leave, (region,))
            timer.daemon = True
            timer.start()

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
            sys.stdout.write(_SHOW_CURSOR)  # a live line hides the cursor
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(code)


@contextlib.contextmanager
def interruptible(text: str) -> Iterator[None]:
    """Context of work that loses nothing when it is cut short: a request to end exits at once. With
    several processes it changes nothing.

    Args:
      text: what is left behind, in words, for the terminal.

    Raises:
      SystemExit: the process was asked to end; its code is an `AtOnce`.
    """
    if jax.process_count() > 1:
        yield
        return
    with Stop() as stop:
        try:
            with stop.region(text):
                yield
        except Interrupted:
            raise SystemExit(AtOnce(stop.code)) from None


def _code(number: int) -> int:
    return INTERRUPTED if number == signal.SIGINT else PREEMPTED


def _start_preemption_service() -> None:
    """Start JAX's preemption service, as late as possible: with it SIGTERM no longer ends a process
    that does not call `due`.
    """
    from jax._src import distributed

    jax.config.update("jax_enable_preemption_service", True)
    if distributed.global_state.preemption_sync_manager is None:
        distributed.global_state.initialize_preemption_sync_manager()
