"""What a run measured: `metrics.jsonl`, `summary.json` and TensorBoard events, the same after any
number of restarts.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tensorboardX import SummaryWriter

from ssl_jax.train.workdir import write_json


class MetricsWriter:
    """Appends one JSON object a step; on leaving, writes the last value of every metric.

    Opened at the step a run goes on from, it drops what an interrupted part wrote beyond it: those
      steps are made again.
    """

    def __init__(self, workdir: Path, step: int):
        self._path = workdir / "metrics.jsonl"
        self._summary = workdir / "summary.json"
        kept = [line for line in read_metrics(workdir) if line["step"] <= step]
        temporary = self._path.with_name(".metrics.jsonl.tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        temporary.replace(self._path)
        self._file = self._path.open("a")
        self.last: dict[str, float] = {}
        for line in kept:
            self.last |= line
        self._events = SummaryWriter(str(workdir / "events"), purge_step=step + 1, flush_secs=30)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line for `step`, the number of updates made."""
        line = {"step": step} | {k: float(v) for k, v in sorted(values.items())}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        self.last |= line
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._events.close()
        self._file.close()
        write_json(self._summary, self.last)


def read_metrics(workdir: Path) -> list[dict[str, float]]:
    """The lines of `metrics.jsonl` in order; a line torn by a crash is left out."""
    path = workdir / "metrics.jsonl"
    lines: list[dict[str, float]] = []
    if path.exists():
        for text in path.read_text(errors="replace").splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                lines.append(line)
    return lines
