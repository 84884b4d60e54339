"""The watch of a process over itself and, in process 0, over all others.

JAX's coordination service makes every process abort, with a C++ stack, when it finds one dead. So
each process tells process 0 now and then that it lives and what it is at, process 0 judges, and
every process ends with the same line and the same exit code. JAX's own heartbeat is set to a longer
time and stays as the last resort. With process 0 the service dies, and JAX aborts the others at
once: that signal is caught, so that our line and exit code come after JAX's own lines. What hangs
shows where all its threads stand before it is ended.
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

LOST = 75  # exit code: another process is gone; the same command may well succeed (EX_TEMPFAIL)
PREEMPTED = 75  # asked to end, and saved: likewise
FAILED, FINAL, INTERRUPTED = 1, 2, 130  # as `ssl_jax.cli.run` returns them

STALLED = "no progress for"  # how the reason of a run that hangs begins
ORDER = ("evaluate", "save", "refresh", "data", "step")  # of the loop, at one step
_KEY = "ssl_jax"  # of all entries in the store


@dataclass(frozen=True)
class Limits:
    """Seconds that the others are waited for: to come, to give a sign of life, to make a step."""

    start: int = 300
    dead: int = 60
    stall: int = 3600


class Watch(threading.Thread):
    """Tells that this process lives and what it is at; in process 0 also judges."""

    def __init__(self, client: Any, process: int, count: int, limits: Limits):
        super().__init__(name="watch", daemon=True)
        self._client, self.process, self._count = client, process, count
        self._limits, self._every = limits, min(limits.dead / 4, 10.0)
        self._seen: dict[int, tuple[str, float]] = {}  # process -> last beat, when it changed
        self._lock, self._over = threading.Lock(), threading.Event()
        self._beats = self._decisions = 0
        self.doing = (-1, "start", time.monotonic())

    def run(self) -> None:
        while not self._over.is_set():
            # A coordinator that hangs does not answer: only a further thread can tell.
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
        """To be called once in all but process 0, whose service is at `coordinator`, HOST:PORT."""
        host, _, port = coordinator.rpartition(":")

        def aborted(_: int) -> None:
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            except OSError:
                self._coordinator_lost()
            # The service answers, so the cause is another one: on return the abort goes on.

        # Python's own handlers run between two instructions of the main thread: never, here.
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
            found = self._client.blocking_key_value_get(key, 1000 * self._limits.stall)
        except jax.errors.JaxRuntimeError:
            self._await_verdict()
            raise
        return json.loads(found)

    def finish(self) -> None:
        """This process has done its work: its silence means nothing from now on."""
        self._over.set()
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._tell({"done": True})

    def fail(self, error: BaseException) -> NoReturn:
        """End this process, and with it the others."""
        if isinstance(error, jax.errors.JaxRuntimeError):
            self._await_verdict()  # most often another process is gone: then say which
        code, message = FAILED, f"{type(error).__name__}: {error}".splitlines()[0]
        if isinstance(error, UserError):
            code, message = FINAL, str(error)
        elif isinstance(error, OSError) and (said := of_system(error)) is not None:
            message, code = said
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
        time.sleep(self._limits.dead + 3 * self._every)  # the thread ends the process before

    def _tell(self, more: Mapping[str, Any]) -> None:
        step, what, since = self.doing
        self._beats += 1
        beat = {"beat": self._beats, "host": socket.gethostname(), "step": step, "what": what}
        beat |= {"since": round(time.monotonic() - since)} | dict(more)
        self._client.key_value_set(f"{_KEY}/beat/{self.process}", json.dumps(beat), True)

    def _judge(self) -> tuple[str, int] | None:
        """In process 0: why the run cannot go on, and the exit code."""
        now = time.monotonic()
        for key, text in self._client.key_value_dir_get(f"{_KEY}/beat/"):
            process = int(key.rpartition("/")[2])
            if self._seen.get(process, ("", 0.0))[0] != text:
                self._seen[process] = text, now
        for process in range(self._count):
            text, when = self._seen.setdefault(process, ("{}", now))
            beat = json.loads(text)
            name = f"process {process} ({beat.get('host', 'not yet heard of')})"
            if "failed" in beat:
                return f"{name} ended: {beat['failed']}", beat["code"]
            if "done" not in beat and now - when > self._limits.dead:
                where = (
                    f"; it was at {beat['what']} of step {beat['step']}" if "what" in beat else ""
                )
                return f"{name} has been silent for {self._limits.dead} s{where}", LOST
        return self._stalled([json.loads(text) for text, _ in self._seen.values()])

    def _stalled(self, beats: list[dict[str, Any]]) -> tuple[str, int] | None:
        """All live, but nobody got on: the one that the others wait for."""
        if any("done" in b or b.get("since", 0) <= self._limits.stall for b in beats):
            return None
        # Who is at an earlier part of the loop is the one that the others wait for in the step.
        places = [(b["step"], ORDER.index(b["what"]) if b["what"] in ORDER else -1) for b in beats]
        last = places.index(min(places))
        beat, process = beats[last], list(self._seen)[last]
        return (
            f"{STALLED} {self._limits.stall} s: process {process} ({beat['host']}) is still "
            f"at {beat['what']} of step {beat['step']}",
            LOST,
        )

    def _verdict(self) -> tuple[str, int] | None:
        """In the others: what process 0 found, if anything."""
        found = dict(self._client.key_value_dir_get(f"{_KEY}/verdict/"))
        if not found:
            return None
        verdict = json.loads(next(iter(found.values())))
        return verdict["message"], verdict["code"]

    def _conclude(self, message: str, code: int) -> None:
        """End for the reason that process 0 found."""
        if message.startswith(STALLED):
            show_stacks()
        if self.process == 0:
            self._announce(message, code)
        else:
            self._tell({"failed": message, "code": code})
        self._end(message, code)

    def _announce(self, message: str, code: int) -> None:
        """In process 0: let all others end first, as the service goes with it."""
        verdict = json.dumps({"message": message, "code": code})
        self._client.key_value_set(f"{_KEY}/verdict/0", verdict, True)
        deadline = time.monotonic() + 3 * self._every
        while time.monotonic() < deadline and self._waiting():
            time.sleep(0.1)

    def _waiting(self) -> bool:
        """Whether another process that lives has not yet said that it ends."""
        for key, text in self._client.key_value_dir_get(f"{_KEY}/beat/"):
            process, beat = int(key.rpartition("/")[2]), json.loads(text)
            _, heard = self._seen.get(process, ("", time.monotonic()))
            silent = time.monotonic() - heard > self._limits.dead
            if process and not (silent or "failed" in beat or "done" in beat):
                return True
        return False

    def _end(self, message: str, code: int) -> NoReturn:
        with self._lock:  # the first to end says why
            end(message, code)


class Stall(threading.Thread):
    """The same for a process that is alone: ends it when nothing got on for `limit` seconds.

    Attributes:
      doing: (step, what, since when by `time.monotonic`); None: not yet anything.
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
    """Where every thread of this process stands, on stderr."""
    print("ssl-jax: all threads of this process:", file=sys.stderr, flush=True)
    faulthandler.dump_traceback(sys.stderr, all_threads=True)


def end(message: str, code: int) -> NoReturn:
    """One line, and no wait for others at the exit, which JAX's shutdown would be."""
    print(f"ssl-jax: {message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)
