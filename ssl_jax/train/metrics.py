"""What a run measured: `metrics.jsonl`, `summary.json` and TensorBoard events, the same after any
number of restarts, and written late rather than not where the disk is full for a while.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from ssl_jax.core.files import write_json, write_text
from ssl_jax.core.plain import from_json

_log = logging.getLogger(__name__)
FLUSH = 30.0  # seconds between two times that events reach the disk


class MetricsWriter:
    """Appends one JSON object a step; on leaving, writes the last value of every metric.

    Opened at the step a run goes on from, it drops what an interrupted part wrote beyond it: those
    steps are made again. A line that cannot be written is kept and tried again with the next.

    Args:
      warn: told in one line what cannot be written; training goes on.
    """

    def __init__(self, workdir: Path, step: int, warn: Callable[[str], None] = _log.warning):
        self._path, self._warn = workdir / "metrics.jsonl", warn
        self._summary = workdir / "summary.json"
        self.lines = [line for line in read_metrics(workdir) if line["step"] <= step]
        write_text(self._path, "".join(json.dumps(line) + "\n" for line in self.lines))
        self._file = self._path.open("ab", buffering=0)
        self._size = self._file.tell()
        self._waiting: list[bytes] = []
        self.last: dict[str, float] = {}
        for line in self.lines:
            self.last |= line
        self._events: _Events | None = _Events(workdir / "events", step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line for `step`, the number of updates made."""
        line = {"step": step} | {k: float(v) for k, v in sorted(values.items())}
        self.last |= line
        self._waiting.append(f"{json.dumps(line)}\n".encode())
        self._flush()
        try:
            if self._events:
                self._events.write(step, values)
        except OSError as e:
            self._events = None
            self._warn(f"step {step}: no more TensorBoard events are written: {e.strerror}")

    def sync(self) -> None:
        """Have all lines on the disk, as they must be before a checkpoint that follows them."""
        self._flush()
        os.fsync(self._file.fileno())

    def _flush(self) -> None:
        text, waited = b"".join(self._waiting), len(self._waiting) > 1
        try:
            done = self._file.write(text) or 0
            if done < len(text):  # a full disk takes a part and does not complain
                self._file.write(text[done:])
        except OSError as e:
            self._file.truncate(self._size)  # no torn line in the middle of the file
            if not waited:
                self._warn(f"metrics cannot be written, training goes on: {e.strerror}")
            return
        self._size, self._waiting = self._size + len(text), []
        if waited:
            self._warn("metrics are written again, none is lost")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._file.close()
        try:
            if self._events:
                self._events.close()
            write_json(self._summary, self.last)
        except OSError as e:
            self._warn(f"{self._summary} cannot be written: {e.strerror}")


class _Events:
    """An events file; TensorBoard drops from older ones what is not before the step `first`.

    Written at once: tensorboardX's `SummaryWriter` waits for ever once its thread met a full disk.
    """

    def __init__(self, folder: Path, first: int):
        folder.mkdir(exist_ok=True)
        # The rest of the name is the second and the host: not enough where a run rolls back.
        self._file = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        self._file.write_event(Event(step=first, session_log=SessionLog(status=SessionLog.START)))
        self._flushed = time.monotonic()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._file.write_event(
                Event(step=step, wall_time=time.time(), summary=scalar(name, value))
            )
        if time.monotonic() - self._flushed > FLUSH:  # it is an fsync
            self._flushed = time.monotonic()
            self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_metrics(workdir: Path) -> list[dict[str, float]]:
    """The lines of `metrics.jsonl` in order; a line torn by a crash is left out."""
    path = workdir / "metrics.jsonl"
    lines: list[dict[str, float]] = []
    if path.exists():
        for text in path.read_text(errors="replace").splitlines():
            try:
                line = from_json(text)
            except ValueError:
                continue
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                lines.append(line)
    return lines
