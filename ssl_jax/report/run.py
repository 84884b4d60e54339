"""What the files of a run say: settings, metrics, results."""

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
from ssl_jax.train.metrics import read_metrics
from ssl_jax.train.workdir import read_config

BASELINES = {"untrained": "untrained", "pixels": "raw pixels"}  # prefix of a metric -> its name
Series = list[tuple[int, float]]


@dataclass
class Run:
    """A run on the page.

    Attributes:
      name: what tells it from the others.
      config: resolved, as the run's folder has it.
      metrics: its logged steps.
      results: of `ssl-jax evaluate`.
      facts: heading -> text.
      notes: what is missing here, and why; that the run has collapsed.
      look: what the newest checkpoint's encoder sees; None without one.
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
        """The run in `folder`.

        Raises:
          UserError: there is none.
        """
        config, metrics = read_config(folder), read_metrics(folder)
        run = cls(name, config, metrics, ResultsFile(folder / "eval" / "results.jsonl").read())
        damaged = lines(folder / "metrics.jsonl") - len(metrics)
        if damaged:
            run.notes.append(f"{damaged} damaged line(s) of metrics.jsonl are left out.")
        if kind := kind_of(run.last.get("diag/collapse", 0)):
            run.notes.append(f"Last seen, it had collapsed. {SAYS[kind].capitalize()}.")
        return run

    @property
    def total(self) -> int:
        """Steps of the whole run; 0 where its config does not say."""
        total = self.config.get("spec", {}).get("total_steps")
        return total if is_whole(total) else 0

    @property
    def step(self) -> int:
        """The last logged one."""
        return max((line["step"] for line in self.metrics), default=0)

    @cached_property
    def series(self) -> dict[str, Series]:
        """Metric -> its (step, value) in order; what is no finite number is left out."""
        found: dict[str, Series] = {}
        for line in self.metrics:
            for name, value in line.items():
                number = isinstance(value, (int, float)) and math.isfinite(value)
                if name != "step" and number:
                    found.setdefault(name, []).append((line["step"], float(value)))
        return found

    @property
    def last(self) -> dict[str, float]:
        """The last value of every metric, also where that is not finite: an older one is no last
        one.
        """
        found: dict[str, float] = {}
        for line in self.metrics:
            found |= {k: float(v) for k, v in line.items() if isinstance(v, (int, float))}
        found.pop("step", None)
        return found


def lines(path: Path) -> int:
    """Lines of a file that hold anything; 0 where it is not there."""
    if not path.exists():
        return 0
    return sum(bool(line.strip()) for line in path.read_bytes().splitlines())


def names(folders: Sequence[Path]) -> list[str]:
    """As much of the end of each path as tells it from the others."""
    paths = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, paths)) + 1):
        found = ["/".join(parts[-length:]) for parts in paths]
        if len(set(found)) == len(set(paths)):
            break
    return found


def settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted key -> value as JSON."""
    found: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= settings(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = json.dumps(value)
    return found
