"""Monitoring of a process by itself and, in process 0, of all others.

JAX's coordination service aborts every process, with a C++ stack, when it detects a dead one.
Instead, each process regularly reports to process 0 that it is alive and what it is doing, process
0 judges, and every process ends with the same line and the same exit code. JAX's own heartbeat has
a longer timeout and stays as the last resort. If process 0 dies, the service dies with it and JAX
aborts the others at once: that signal is caught, so that our line and exit code come after JAX's
lines. A process that hangs prints the stacks of all its threads before it ends.
"""

import contextlib
import ctypes
import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import jax

from ssl_jax.core.errors import UserError, of_system

LOST = 75  # exit code: another process is lost; the same command may succeed (EX_TEMPFAIL)
PREEMPTED = 75  # exit code: a request to end, after saving; likewise
FAILED, FINAL, INTERRUPTED = 1, 2, 130  # as `ssl_jax.cli.run` returns them

STALLED = "no progress for"  # start of the message of a run that hangs
ORDER = (
    "evaluate",
    "save",
    "refresh",
    "data",
    "step",
)  # order of activities within a step of the loop
_KEY = "ssl_jax"  # prefix of all entries in the store


@dataclass(frozen=True)
class Limits:
    """Seconds to wait for other processes: to start, to give a sign of life, to make a step."""

    start: int = 300
    dead: int = 60
    stall: int = 3600


class Watch(threading.Thread):
    """Thread that reports the state of this process and, in process 0, judges those of all."""

    def __init__(self, client: Any, process: int, count: int, limits: Limits):
        super().__init__(name="watch", daemon=True)
        self._client, self.process, self._count = client, process, count
        self._limits, self._every = limits, min(limits.dead / 4, 10.0)
        self._latest: dict[int, tuple[str, float]] = {}  # process -> last beat, time of its change
        self._lock, self._over = threading.Lock(), threading.Event()
        self._beats = self._decisions = 0
        self.doing = (-1, "start", time.monotonic())

    def run(self) -> None:
        while not self._over.is_set():
            # A coordinator that hangs does not answer: only another thread can notice that.
            silence = threading.Timer(self._limits.dead, self._coordinator_lost)
            silence.daemon = True
            silence.start()
            try:
                self._tell({})
                verdict = self._judge() if self.process == 0 else self._verdict()
            except jax.errors.JaxRuntimeError:
                self._coordinator_lost()
                return
            finally:
                silence.cancel()
            if verdict and not self._over.is_set():
                self._conclude(*verdict)
            self._over.wait(self._every)

    def catch_abort(self, coordinator: str) -> None:
        """Handle JAX's abort; call once in all processes but 0, whose service is at `coordinator`,
        HOST:PORT.
        """
        host, _, port = coordinator.rpartition(":")

        def aborted(_: int) -> None:
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            except OSError:
                self._coordinator_lost()
            # The service answers, so there is another cause: on return the abort continues.

        # Python's own handlers run between instructions of the main thread, so never here.
        self._on_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)
        ctypes.CDLL(None).signal(signal.SIGABRT, self._on_abort)

    def barrier(self, name: str) -> None:
        try:
            self._client.wait_at_barrier(f"{_KEY}/{name}", 1000 * self._limits.stall)
        except jax.errors.JaxRuntimeError:
            self._await_verdict()
            raise

    def agreed(self, decide: Callable[[], Any]) -> Any:
        self._decisions += 1
        key = f"{_KEY}/agreed/{self._decisions}"
        try:
            if self.process == 0:
                self._client.key_value_set(key, json.dumps(decide()))
            decision = self._client.blocking_key_value_get(key, 1000 * self._limits.stall)
        except jax.errors.JaxRuntimeError:
            self._await_verdict()
            raise
        return json.loads(decision)

    def finish(self) -> None:
        """Report that this process is done: its silence no longer matters."""
        self._over.set()
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._tell({"done": True})

    def fail(self, error: BaseException) -> NoReturn:
        """End this process and all others."""
        if isinstance(error, jax.errors.JaxRuntimeError):
            self._await_verdict()  # usually another process is lost: report which
        code, message = FAILED, f"{type(error).__name__}: {error}".splitlines()[0]
        if isinstance(error, UserError):
            code, message = FINAL, str(error)
        elif isinstance(error, OSError) and (line_and_code := of_system(error)) is not None:
            message, code = line_and_code
        elif isinstance(error, KeyboardInterrupt):
            code, message = INTERRUPTED, "interrupted"
        elif isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else FAILED
        else:
            traceback.print_exception(error)
        self._over.set()
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._tell({"failed": message, "code": code})
            if self.process == 0:
                self._announce(f"process 0 ({socket.gethostname()}) ended: {message}", code)
        self._end(message, code)

    def _coordinator_lost(self) -> None:
        if not self._over.is_set():
            self._end("process 0, which coordinates the run, does not answer", LOST)

    def _await_verdict(self) -> None:
        time.sleep(self._limits.dead + 3 * self._every)  # the watch thread ends the process first

    def _tell(self, more: Mapping[str, Any]) -> None:
        step, what, since = self.doing
        self._beats += 1
        beat = {"beat": self._beats, "host": socket.gethostname(), "step": step, "what": what}
        beat |= {"since": round(time.monotonic() - since)} | dict(more)
        self._client.key_value_set(f"{_KEY}/beat/{self.process}", json.dumps(beat), True)

    def _judge(self) -> tuple[str, int] | None:
        """Return why the run cannot continue, and the exit code; called in process 0."""
        checked_at = time.monotonic()
        for key, text in self._client.key_value_dir_get(f"{_KEY}/beat/"):
            process = int(key.rpartition("/")[2])
            if self._latest.get(process, ("", 0.0))[0] != text:
                self._latest[process] = text, checked_at
        for process in range(self._count):
            text, when = self._latest.setdefault(process, ("{}", checked_at))
            beat = json.loads(text)
            name = f"process {process} ({beat.get('host', 'not heard from yet')})"
            if "failed" in beat:
                return f"{name} ended: {beat['failed']}", beat["code"]
            if "done" not in beat and checked_at - when > self._limits.dead:
                where = (
                    f"; it was at {beat['what']} of step {beat['step']}" if "what" in beat else ""
                )
                return f"{name} has been silent for {self._limits.dead} s{where}", LOST
        return self._stalled([json.loads(text) for text, _ in self._latest.values()])

    def _stalled(self, beats: list[dict[str, Any]]) -> tuple[str, int] | None:
        """Return the verdict if no process makes progress; it names the one that blocks others."""
        if any("done" in b or b.get("since", 0) <= self._limits.stall for b in beats):
            return None
        # The others wait for the process at the earliest part of the loop.
        places = [(b["step"], ORDER.index(b["what"]) if b["what"] in ORDER else -1) for b in beats]
        last = places.index(min(places))
        beat, process = beats[last], list(self._latest)[last]
        return (
            f"{STALLED} {self._limits.stall} s: process {process} ({beat['host']}) is still "
            f"at {beat['what']} of step {beat['step']}",
            LOST,
        )

    def _verdict(self) -> tuple[str, int] | None:
        """Return the verdict of process 0, if any; called in the others."""
        verdicts = dict(self._client.key_value_dir_get(f"{_KEY}/verdict/"))
        if not verdicts:
            return None
        verdict = json.loads(next(iter(verdicts.values())))
        return verdict["message"], verdict["code"]

    def _conclude(self, message: str, code: int) -> None:
        """End for the reason that process 0 announced."""
        if message.startswith(STALLED):
            show_stacks()
        if self.process == 0:
            self._announce(message, code)
        else:
            self._tell({"failed": message, "code": code})
        self._end(message, code)

    def _announce(self, message: str, code: int) -> None:
        """Announce the verdict and wait for the others: the service ends with process 0."""
        verdict = json.dumps({"message": message, "code": code})
        self._client.key_value_set(f"{_KEY}/verdict/0", verdict, True)
        deadline = time.monotonic() + 3 * self._every
        while time.monotonic() < deadline and self._waiting():
            time.sleep(0.1)

    def _waiting(self) -> bool:
        """True if another live process has not yet reported its end."""
        for key, text in self._client.key_value_dir_get(f"{_KEY}/beat/"):
            process, beat = int(key.rpartition("/")[2]), json.loads(text)
            _, heard = self._latest.get(process, ("", time.monotonic()))
            silent = time.monotonic() - heard > self._limits.dead
            if process and not (silent or "failed" in beat or "done" in beat):
                return True
        return False

    def _end(self, message: str, code: int) -> NoReturn:
        with self._lock:  # the first to end prints the reason
            end(message, code)


class Stall(threading.Thread):
    """Thread that ends a single process after `limit` seconds without progress.

    Attributes:
      doing: (step, activity, start by `time.monotonic`); None before the first activity.
    """

    def __init__(self, limit: float):
        super().__init__(name="stall", daemon=True)
        self._limit, self._over = limit, threading.Event()
        self.doing: tuple[int, str, float] | None = None

    def run(self) -> None:
        while not self._over.wait(min(self._limit / 4, 10.0)):
            if self.doing is None:
                continue
            step, what, since = self.doing
            if time.monotonic() - since > self._limit:
                show_stacks()
                end(f"{STALLED} {self._limit:.0f} s: still at {what} of step {step}", LOST)

    def finish(self) -> None:
        self._over.set()


def show_stacks() -> None:
    """Print the stacks of all threads of this process to stderr."""
    print("ssl-jax: all threads of this process:", file=sys.stderr, flush=True)
    faulthandler.dump_traceback(sys.stderr, all_threads=True)


def end(message: str, code: int) -> NoReturn:
    """Print one line and end the process, without the wait for others of JAX's shutdown."""
    print(f"ssl-jax: {message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)
