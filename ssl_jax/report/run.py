"""A run as its files describe it: settings, metrics, results."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ssl_jax.core.plain import is_whole
from ssl_jax.evals.collapse import SAYS, kind_of
from ssl_jax.evals.records import Record, ResultsFile
from ssl_jax.report.look import Look
from ssl_jax.training.metrics import read_metrics
from ssl_jax.training.workdir import read_config

BASELINES = {"untrained": "untrained", "pixels": "raw pixels"}  # prefix of a metric -> its name
Series = list[tuple[int, float]]


@dataclass
class Run:
    """A run on the page.

    Attributes:
      name: distinguishes it from the other runs.
      config: the resolved config in the run's folder.
      metrics: the logged steps.
      results: the records of `ssl-jax evaluate`.
      facts: heading -> text.
      notes: warnings: what is missing and why, and whether the run collapsed.
      look: views of the newest checkpoint's encoder; None without a checkpoint.
    """

    name: str
    config: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    results: Sequence[Record]
    facts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    look: Look | None = None

    @classmethod
    def read(cls, folder: Path, name: str) -> "Run":
        """Read the run in `folder`.

        Raises:
          UserError: the folder holds no run.
        """
        config, metrics = read_config(folder), read_metrics(folder)
        run = cls(name, config, metrics, ResultsFile(folder / "eval" / "results.jsonl").read())
        damaged = lines(folder / "metrics.jsonl") - len(metrics)
        if damaged:
            run.notes.append(f"{damaged} damaged line(s) of metrics.jsonl are skipped.")
        if kind := kind_of(run.last.get("diag/collapse", 0)):
            run.notes.append(
                f"The run had collapsed when last measured. {SAYS[kind].capitalize()}."
            )
        return run

    @property
    def total(self) -> int:
        """Steps of the whole run; 0 if its config does not say."""
        total = self.config.get("spec", {}).get("total_steps")
        return total if is_whole(total) else 0

    @property
    def step(self) -> int:
        """The last logged step."""
        return max((line["step"] for line in self.metrics), default=0)

    @cached_property
    def series(self) -> dict[str, Series]:
        """Metric -> its (step, value) points in order; only finite numbers."""
        out: dict[str, Series] = {}
        for line in self.metrics:
            for name, value in line.items():
                number = isinstance(value, (int, float)) and math.isfinite(value)
                if name != "step" and number:
                    out.setdefault(name, []).append((line["step"], float(value)))
        return out

    @property
    def last(self) -> dict[str, float]:
        """Metric -> its last value, even if that is not finite: an older one is not the last."""
        out: dict[str, float] = {}
        for line in self.metrics:
            out |= {k: float(v) for k, v in line.items() if isinstance(v, (int, float))}
        out.pop("step", None)
        return out


def lines(path: Path) -> int:
    """Count the lines of a file that are not blank; 0 if there is no file."""
    if not path.exists():
        return 0
    return sum(bool(line.strip()) for line in path.read_bytes().splitlines())


def names(folders: Sequence[Path]) -> list[str]:
    """Name each folder by as much of the end of its path as distinguishes it from the others."""
    paths = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, paths)) + 1):
        ends = ["/".join(parts[-length:]) for parts in paths]
        if len(set(ends)) == len(set(paths)):
            break
    return ends


def settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten a config: dotted key -> value as JSON."""
    out: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            out |= settings(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = json.dumps(value)
    return out
