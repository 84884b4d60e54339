"""Studies: lists of runs, and which of them are finished."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssl_jax.core.errors import UserError
from ssl_jax.core.plain import is_whole
from ssl_jax.run import flags as command_line
from ssl_jax.run.configs import load_config
from ssl_jax.run.restart import newest
from ssl_jax.training.metrics import read_metrics
from ssl_jax.training.workdir import read_config

STUDY = "{study}"  # in a value of a config: the folder of the study
OWN = ("config", "labels", "evaluate")  # keys of an entry that are not the config's


@dataclass(frozen=True)
class Planned:
    """One run of a study.

    Attributes:
      name: its folder's name.
      config: METHOD:RECIPE or PATH.py:RECIPE.
      changes: dotted key of the config -> value. In a text, "{study}" stands for the study's
        folder: "{study}/pretrain" is that run, which must come earlier in the list.
      labels: name -> value, the run's place in the study's tables and figures.
      evaluate: flags of `ssl-jax evaluate`, one text per command, for measurements that are made
        after the study's training; "{study}" as above.
    """

    name: str
    config: str
    changes: Mapping[str, Any]
    labels: Mapping[str, Any] = field(default_factory=dict)
    evaluate: Sequence[str] = ()

    @property
    def starts_from_another(self) -> bool:
        """Tell whether the run needs an earlier run of its study."""
        return any(isinstance(value, str) and STUDY in value for value in self.changes.values())

    def words(self, folder: Path, data: str = "", eval_data: str = "") -> list[str]:
        """Return the arguments of `ssl-jax train`."""
        flags = {"data": data, "eval_data": eval_data, "workdir": str(folder / self.name)}
        return [
            f"--config={self.config}",
            *(f"--{name}={value}" for name, value in flags.items() if value),
            *(f"--config.{key}={_filled(value, folder)}" for key, value in self.changes.items()),
        ]

    def evaluations(self, folder: Path) -> list[list[str]]:
        """Return the arguments of each `ssl-jax evaluate`."""
        own = f"--workdir={folder / self.name}"
        return [[own, *(_filled(w, folder) for w in shlex.split(text))] for text in self.evaluate]


def _filled(value: Any, folder: Path) -> Any:
    return value.replace(STUDY, str(folder)) if isinstance(value, str) else value


def read(spec: str, overrides: Sequence[command_line.Override] = ()) -> list[Planned]:
    """Read the runs of a study: its file's `get_config` gives {name: {"config": "simclr:digits",
    "train.steps": 100, ...}}; `overrides` apply to all of them. The keys "labels" and "evaluate"
    are those of `Planned`.

    Raises:
      UserError: no such file or study, or a run of another form.
    """
    entries = load_config(spec)
    if not entries:
        raise UserError(f"--study={spec}: it holds no run")
    runs = []
    for name, values in entries.items():
        if not isinstance(values, Mapping) or not isinstance(values.get("config"), str):
            raise UserError(f"--study={spec}: {name}: expected a dict with the key 'config'")
        if Path(name).name != name or name.startswith("."):
            raise UserError(f"--study={spec}: {name!r} is not a valid folder name")
        changes = {k: v for k, v in values.items() if k not in OWN} | dict(overrides)
        labels, evaluate = values.get("labels", {}), values.get("evaluate", ())
        if not isinstance(labels, Mapping):
            raise UserError(f"--study={spec}: {name}: labels: expected a dict, got {labels!r}")
        if not isinstance(evaluate, (tuple, list)) or not all(isinstance(t, str) for t in evaluate):
            raise UserError(
                f"--study={spec}: {name}: evaluate: expected a tuple of texts, got {evaluate!r}"
            )
        runs.append(Planned(name, values["config"], changes, labels, evaluate))
    return runs


def finished(folder: Path) -> bool:
    """Tell whether the run has its last checkpoint, which is saved after the last evaluation."""
    if not (folder / "config.json").exists():
        return False
    total = read_config(folder).get("spec", {}).get("total_steps")
    return is_whole(total) and newest(folder) >= total


def last_numbers(folder: Path) -> dict[str, float]:
    """Return the last value of every metric of a run."""
    last: dict[str, float] = {}
    for line in read_metrics(folder):
        last |= line
    return last
