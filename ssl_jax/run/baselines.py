"""Baselines of a run's numbers, the untrained network and raw pixels; and the settings that runs
share that differ only in their seed.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from ssl_jax.core.errors import UserError
from ssl_jax.evals.base import Protocol, Subject, measured
from ssl_jax.evals.checks import NotMeasurable, not_finite
from ssl_jax.evals.records import ANSWER, Record, ResultsFile
from ssl_jax.objectives.base import Encoder
from ssl_jax.run import pretrained
from ssl_jax.run.console import terminal, verdict
from ssl_jax.run.experiment import Experiment
from ssl_jax.run.suites import Task
from ssl_jax.training import workdir

KINDS = ("untrained", "pixels")
Numbers = dict[str, dict[str, float]]  # kind of `KINDS` -> metric -> number


def untrained(experiment: Experiment) -> Encoder | None:
    """Return the network that the run started from, without its online probe; None if the weights
    that it started from no longer exist.
    """
    try:
        loaded = pretrained.load_backbone(experiment, Console(quiet=True))
    except UserError as e:
        terminal().print(f"no baseline of the network before training: {e}", markup=False)
        return None
    start = experiment.fresh_state(loaded)
    encoder = experiment.objective.encoder(start.params, start.extra)
    return dataclasses.replace(encoder, online=None)


class Baselines:
    """Numbers of the untrained network and of raw pixels on one pair of data sets, measured once
    for each protocol's settings, whatever the checkpoint.

    Args:
      start: returns the network before training.
      file: results, in which records of the run's other checkpoints may already hold the numbers.
    """

    def __init__(self, task: Task, start: Callable[[], Encoder | None], file: ResultsFile):
        self._task, self._start, self._file = task, start, file
        self._subjects: dict[str, Subject] = {}  # each caches the features that it has read

    def of(self, requests: Mapping[Protocol, Record]) -> dict[Protocol, Numbers]:
        """Return the baselines of each of the requested settings, all of one protocol."""
        stored = {_but_step(r): r["baselines"] for r in self._file.read() if "baselines" in r}
        baselines: dict[Protocol, Numbers] = {
            protocol: stored[_but_step(request)]
            for protocol, request in requests.items()
            if _but_step(request) in stored
        }
        missing = [protocol for protocol in requests if protocol not in baselines]
        for kind in KINDS if missing else ():
            try:
                for protocol, numbers in measured(missing, self._subject(kind)):
                    broken = not_finite(numbers)
                    finite = {name: v for name, v in numbers.items() if name not in broken}
                    baselines.setdefault(protocol, {})[kind] = finite
            except NotMeasurable:
                continue  # there is no such baseline: it lacks labels, text or a probe
        return baselines

    def _subject(self, kind: str) -> Subject:
        if kind not in self._subjects:
            evaluator, encoder = self._task.evaluator, None
            if kind == "untrained":
                encoder = self._start()
                if encoder is None:
                    raise NotMeasurable("the network before training does not exist")
                encoder = evaluator.images.with_statistics(encoder)
            self._subjects[kind] = evaluator.subject(encoder)
        return self._subjects[kind]


def _but_step(record: Record) -> str:
    """Key of a record that is equal for all checkpoints of a run."""
    request = {k: v for k, v in record.items() if k not in (*ANSWER, "step")}
    return json.dumps(request, sort_keys=True)


def judged(record: Record) -> str:
    """Return the verdict on one record, compared with its baselines."""
    baselines = {
        f"{kind}/{name}": value
        for kind, numbers in record.get("baselines", {}).items()
        for name, value in numbers.items()
    }
    return verdict(record.get("results", {}) | baselines)


def run_settings(folder: Path) -> dict[str, Any] | None:
    """Return dotted key -> value of all settings that a run's result depends on, except its seed;
    None if its config cannot be read.
    """
    try:
        flat = workdir.flatten(workdir.read_config(folder))
    except UserError:
        return None
    ignored = (*workdir.FREE, "train.seed")
    return {k: v for k, v in flat.items() if not k.startswith(ignored)}


def run_config(folder: Path) -> str | None:
    """Return a digest of `run_settings`, equal for runs that differ only in their seed."""
    settings = run_settings(folder)
    if settings is None:
        return None
    text = json.dumps(settings, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
