"""Metrics of a run: `metrics.jsonl` and `summary.json`, the same after any number of restarts.
While the disk is full, they are kept and written later.
"""

import contextlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from ssl_jax.core.files import replacing, write_json
from ssl_jax.core.plain import from_json, is_number, is_whole

_log = logging.getLogger(__name__)


class MetricsWriter:
    """Writer that appends one JSON object per step and, on exit, writes the last value of every
    metric.

    Opened at the step that a run resumes from, it drops the lines that an interrupted run wrote
    beyond that step, as those steps are repeated. A line that cannot be written is retried with the
    next.

    Args:
      warn: called with one line when something cannot be written; training continues.

    Attributes:
      lines: those up to `step`.
      reached: metric -> the last step of which the file had it when it was opened.
      last: metric -> its last value.
    """

    def __init__(self, workdir: Path, step: int, warn: Callable[[str], None] = _log.warning):
        self._path, self._warn = workdir / "metrics.jsonl", warn
        self._summary = workdir / "summary.json"
        self.lines, self.reached = _cut(self._path, step)
        self._file = self._path.open("ab", buffering=0)
        self._size = self._file.tell()
        self._waiting: list[bytes] = []
        self.last: dict[str, float] = {}
        for line in self.lines:
            self.last |= line

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write one line for `step`, the number of updates made."""
        line = {"step": step} | {k: float(v) for k, v in sorted(values.items())}
        self.last |= line
        self._waiting.append(f"{json.dumps(line)}\n".encode())
        self._flush()

    def sync(self) -> None:
        """Flush all lines to the disk, which a checkpoint that follows them requires."""
        self._flush()
        try:
            os.fsync(self._file.fileno())
        except OSError as e:
            self._warn(f"metrics may be lost in a power cut: {e.strerror}")

    def _flush(self) -> None:
        text, waited = b"".join(self._waiting), len(self._waiting) > 1
        try:
            done = self._file.write(text) or 0
            if done < len(text):  # a full disk takes a part without an error
                self._file.write(text[done:])
        except OSError as e:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)  # no torn line in the middle of the file
            if not waited:
                self._warn(f"metrics cannot be written, training continues: {e.strerror}")
            return
        self._size, self._waiting = self._size + len(text), []
        if waited:
            self._warn("metrics are written again, none were lost")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._file.close()
        try:
            write_json(self._summary, self.last)
        except OSError as e:
            self._warn(f"{self._summary} cannot be written: {e.strerror}")


def read_metrics(workdir: Path) -> list[dict[str, float]]:
    """Read the lines of `metrics.jsonl` in order, without lines that were torn by a crash or that
    hold anything but numbers.
    """
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return []
    return [line for text in path.read_bytes().splitlines() if (line := _line(text)) is not None]


def read_summary(workdir: Path) -> dict[str, float]:
    """Read the last value of every metric from `summary.json`, or if that is unusable from
    `metrics.jsonl`.
    """
    try:
        summary = from_json((workdir / "summary.json").read_bytes())
    except (OSError, ValueError):
        summary = None
    if isinstance(summary, dict) and all(map(is_number, summary.values())):
        return summary
    last: dict[str, float] = {}
    for line in read_metrics(workdir):
        last |= line
    return last


def _line(text: bytes) -> dict[str, float] | None:
    """Parse a line of `metrics.jsonl`; None if it is invalid."""
    try:
        line = from_json(text)
    except ValueError:
        return None
    usable = isinstance(line, dict) and is_whole(line.get("step"))
    return line if usable and all(map(is_number, line.values())) else None


def _cut(path: Path, step: int) -> tuple[list[dict[str, float]], dict[str, int]]:
    """Remove the lines beyond `step` from a file; return the others, and the last step of each
    metric in any line.

    Lines at its end, where a resumed run has them, are cut off without a second copy.
    """
    lines, end, size = [], 0, 0
    reached: dict[str, int] = {}
    rest: list[bytes] = []  # the lines to keep, if the file must be rewritten
    beyond = anew = False
    for text in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        size += len(text)
        line = _line(text)
        for name in line or ():
            reached[name] = max(reached.get(name, 0), int(line["step"]))  # type: ignore[index]
        if line is not None and line["step"] > step:
            beyond = True
        elif line is not None:
            lines.append(line)
            rest.append(text.rstrip(b"\n") + b"\n")
            anew |= beyond or not text.endswith(b"\n")
            end = size
    if anew:
        with replacing(path) as temporary:
            temporary.write_bytes(b"".join(rest))
    elif end < size:
        os.truncate(path, end)
    return lines, reached
