"""What a run's numbers stand beside: the untrained network and raw pixels; and which runs differ
in their seed only.
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
from ssl_jax.train import workdir

KINDS = ("untrained", "pixels")
Numbers = dict[str, dict[str, float]]  # one of `KINDS` -> metric -> number


def untrained(experiment: Experiment) -> Encoder | None:
    """The network that the run started from, without a probe that was trained along; None where
    the weights that it started from are no longer there.
    """
    try:
        given = pretrained.load(experiment, Console(quiet=True))
    except UserError as e:
        terminal().print(f"without the network before training: {e}", markup=False)
        return None
    start = experiment.fresh_state(given)
    encoder = experiment.objective.encoder(start.params, start.extra)
    return dataclasses.replace(encoder, online=None)


class Baselines:
    """The numbers of the untrained network and of raw pixels on one pair of data sets, measured
    once for each protocol's settings, whatever the checkpoint.

    Args:
      start: gives the network before training.
      file: where records of other checkpoints of the run may have them.
    """

    def __init__(self, task: Task, start: Callable[[], Encoder | None], file: ResultsFile):
        self._task, self._start, self._file = task, start, file
        self._subjects: dict[str, Subject] = {}  # which keep the features that they have read

    def of(self, questions: Mapping[Protocol, Record]) -> dict[Protocol, Numbers]:
        """Those of settings, all of one protocol."""
        known = {_but_step(r): r["baselines"] for r in self._file.read() if "baselines" in r}
        found: dict[Protocol, Numbers] = {
            one: known[_but_step(question)]
            for one, question in questions.items()
            if _but_step(question) in known
        }
        missing = [one for one in questions if one not in found]
        for kind in KINDS if missing else ():
            try:
                for one, numbers in measured(missing, self._subject(kind)):
                    broken = not_finite(numbers)
                    kept = {name: v for name, v in numbers.items() if name not in broken}
                    found.setdefault(one, {})[kind] = kept
            except NotMeasurable:
                continue  # as there is none: it has no labels to learn, no text, no probe
        return found

    def _subject(self, kind: str) -> Subject:
        if kind not in self._subjects:
            quality, encoder = self._task.quality, None
            if kind == "untrained":
                encoder = self._start()
                if encoder is None:
                    raise NotMeasurable("the network before training is not there")
                encoder = quality.images.with_statistics(encoder)
            self._subjects[kind] = quality.subject(encoder)
        return self._subjects[kind]


def _but_step(record: Record) -> str:
    asked = {k: v for k, v in record.items() if k not in (*ANSWER, "step")}
    return json.dumps(asked, sort_keys=True)


def judged(record: Record) -> str:
    """The verdict on one record, with its baselines."""
    beside = {
        f"{kind}/{name}": value
        for kind, numbers in record.get("baselines", {}).items()
        for name, value in numbers.items()
    }
    return verdict(record.get("results", {}) | beside)


def run_settings(folder: Path) -> dict[str, Any] | None:
    """Dotted key -> value of what a run's result depends on, but for its seed; None where its
    config cannot be read.
    """
    try:
        flat = workdir.flatten(workdir.read_config(folder))
    except UserError:
        return None
    left_out = (*workdir.FREE, "train.seed")
    return {k: v for k, v in flat.items() if not k.startswith(left_out)}


def run_config(folder: Path) -> str | None:
    """A digest of `run_settings`: equal for runs that differ in the seed only."""
    settings = run_settings(folder)
    if settings is None:
        return None
    text = json.dumps(settings, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
