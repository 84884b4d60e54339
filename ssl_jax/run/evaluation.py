"""Measure checkpoints with protocols, and skip what a file of records already holds."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from ssl_jax.core import distributed
from ssl_jax.core.errors import UserError
from ssl_jax.evals.base import Protocol, Subject, measured
from ssl_jax.evals.checks import DoesNotApply, NotMeasurable, not_finite
from ssl_jax.evals.records import Record, ResultsFile, key, named_files
from ssl_jax.objectives.base import Encoder, Probe
from ssl_jax.run import weights_file
from ssl_jax.run.baselines import Baselines, Numbers, run_config, untrained
from ssl_jax.run.console import terminal
from ssl_jax.run.experiment import Experiment
from ssl_jax.run.suites import Cell, DataSet, Task, measured_on
from ssl_jax.train.checkpoint import Checkpoints

NEWEST = -1  # step


POLL = 5.0  # seconds between two looks for a new checkpoint


def measure(
    folder: Path,
    sets: Mapping[str, DataSet],
    protocols: Sequence[str],
    cells: Sequence[Cell],
    step: int | None,
    follow: bool,
    file: ResultsFile,
    left_out: list[str],
    weights: weights_file.FileExperiment | None = None,
    baselines: bool = True,
) -> Iterator[tuple[int, list[Record]]]:
    """Measure what is not yet in `file`; yields what was asked of each checkpoint, without the
    answers. The names of data sets that cannot be measured go to `left_out`, and those of the
    `protocols`, which were asked for by name, that cannot be.
    """
    experiment = weights or Experiment.of_run(folder)
    run_of = functools.partial(Checkpoints, folder / "checkpoints", reader=True)
    checkpoints: Any = weights.checkpoints() if weights else run_of()
    with checkpoints, jax.set_mesh(experiment.mesh):

        def restored(number: int) -> Encoder:
            state = checkpoints.restore(number, experiment.abstract_state, experiment.placed)
            return experiment.objective.encoder(state.params, state.extra)

        tasks = []
        for name, data in sets.items():
            with told(name, left_out):
                tasks.append(Task.of(experiment, name, data, protocols, cells))
        for task in tasks:
            which = f"{task.name} " if task.name else ""
            terminal().print(f"{which}evaluated on: {measured_on(task.quality.images)}")
        for note in dict.fromkeys(n for task in tasks for n in task.quality.images.notes()):
            terminal().print(note, markup=False)
        start = functools.cache(functools.partial(untrained, experiment))
        config = run_config(folder)
        last = experiment.spec.total_steps if follow else None
        for at in steps_of(folder, checkpoints, step, last):
            encoder = functools.cache(functools.partial(restored, at))
            run = {
                "workdir": str(folder.resolve()),
                "method": experiment.raw["objective"]["name"],
                "seed": experiment.train.seed,
                "step": at,
            } | (weights.about if weights else {})
            probe = experiment.objective.probe
            questions: list[Record] = []
            for task in tasks:
                subject = functools.cache(functools.partial(task.subject, encoder))
                beside = Baselines(task, start, file) if baselines else None
                with told(task.name, left_out):
                    for name, wanted in task.asked.items():
                        about = run | {"protocol": name} | task.about
                        new = {one: about | asked_with(one, probe) for one in wanted}
                        try:
                            answer(new, subject, file, beside, config)
                        except NotMeasurable as e:
                            refuse(name, protocols, task.name, e, left_out)
                        questions += new.values()
            yield at, questions


@contextlib.contextmanager
def told(name: str, left_out: list[str]) -> Iterator[None]:
    """What is wrong with a data set of a suite is said, and the others go on."""
    try:
        yield
    except UserError as e:
        if not name:
            raise
        terminal().print(f"{name}: {e}")
        left_out.append(name)


def refuse(
    name: str, protocols: Sequence[str], data: str, reason: NotMeasurable, left_out: list[str]
) -> None:
    """Say why a protocol is not measured; the command fails where it was asked for by name.

    Raises:
      UserError: it was the only one.
    """
    said = f"{name}: not measured: {reason}"
    if list(protocols) == [name] and not data:
        raise UserError(said) from None
    if protocols:
        left_out.append(f"{data}: {name}" if data else name)
    elif isinstance(reason, DoesNotApply):
        return  # other methods have what this one lacks
    terminal().print(f"{data}: {said}" if data else said, markup=False)


def answer(
    questions: Mapping[Protocol, Record],
    subject: Callable[[], Subject],
    file: ResultsFile,
    beside: Baselines | None = None,
    config: str | None = None,
) -> None:
    """Measure those of the settings, all of one protocol, whose question `file` does not answer.

    Raises:
      NotMeasurable: the method or the data do not allow it.
    """
    done = {key(record) for record in file.read()}
    missing = [one for one, question in questions.items() if key(question) not in done]
    if not missing:
        return
    versions = {name: importlib.metadata.version(name) for name in ("ssl-jax", "jax")}
    started = time.monotonic()
    baselines: dict[Protocol, Numbers] | None = None
    for one, found in measured(missing, subject()):
        score = f"{one.prefix}/{questions[one]['protocol']}_{questions[one].get('metric')}"
        if score in found:  # the number that the standard of a suite's set asks for
            found[f"{one.prefix}/score"] = found[score]
        seconds = round(time.monotonic() - started, 3)
        if baselines is None:  # once the protocol is known to work
            baselines = beside.of({m: questions[m] for m in missing}) if beside else {}
        broken = not_finite(found)
        if zero := [n for n, value in found.items() if n.endswith("_top1") and value == 0]:
            terminal().print(f"{', '.join(zero)} is 0: not one answer is right", markup=False)
        finite = {name: value for name, value in found.items() if name not in broken}
        record = questions[one] | {"results": finite, "seconds": seconds, "versions": versions}
        record |= {"not_finite": broken} if broken else {}
        record |= {"baselines": baselines[one]} if baselines.get(one) else {}
        record |= {"config": config} if config else {}
        if distributed.primary():
            file.append(record)
        started = time.monotonic()


def asked_with(protocol: Protocol, probe: Probe) -> Record:
    """Its settings, and digests of the files that they name."""
    settings = plain(protocol, probe)
    files = named_files(settings)
    return {"settings": settings} | ({"files": files} if files else {})


def plain(protocol: Protocol, probe: Probe) -> Cell:
    """Its settings as JSON has them, with the layer that it leaves to the method."""
    given = dataclasses.asdict(protocol.settled())
    read = dataclasses.asdict(probe.at(given.get("stage"), given.get("pool")))
    layer = {k: v for k, v in read.items() if k in given}
    given = layer | {k: v for k, v in given.items() if v is not None}
    return json.loads(json.dumps(given))  # type: ignore[no-any-return]


def steps_of(
    folder: Path, checkpoints: Checkpoints, step: int | None, last: int | None
) -> Iterator[int]:
    """The checkpoints to measure: this step, the `NEWEST`, or all (None); with `last` all, as they
    come, up to that step.

    Raises:
      UserError: they are not there, or several processes would have to see them come.
    """
    if last is not None:
        if jax.process_count() > 1:
            raise UserError("--follow is for one process: start it beside the run")
        done: set[int] = set()
        while last not in done:
            new = [number for number in checkpoints.steps if number not in done]
            yield from new
            done.update(new)
            if not new:
                time.sleep(POLL)
        return
    known = checkpoints.steps
    if not known:
        raise UserError(f"{folder} holds no checkpoint yet")
    if step is None:
        yield from known
    elif step != NEWEST and step not in known:
        there = ", ".join(map(str, known))
        raise UserError(f"{folder} holds no checkpoint of step {step}; there are: {there}")
    else:
        yield known[-1] if step == NEWEST else step
