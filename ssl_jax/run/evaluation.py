"""Measure checkpoints with protocols, except what a file of results already holds."""

import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax

from ssl_jax.core import distributed
from ssl_jax.core.errors import UserError
from ssl_jax.core.versions import versions
from ssl_jax.evals.base import Protocol, Subject, measured
from ssl_jax.evals.checks import DoesNotApply, NotMeasurable, not_finite
from ssl_jax.evals.records import Record, ResultsFile, digest_of, key, named_files
from ssl_jax.objectives.base import Encoder, Probe
from ssl_jax.run import weights_file
from ssl_jax.run.baselines import Baselines, Numbers, run_config, untrained
from ssl_jax.run.console import terminal
from ssl_jax.run.experiment import Experiment
from ssl_jax.run.suites import Cell, DataSet, Task, measured_on
from ssl_jax.training.checkpoint import Checkpoints

Steps = int | Literal["all"] | None  # of the checkpoints to measure; None for the newest
POLL = 5.0  # seconds between two looks for a new checkpoint


def measure(
    folder: Path,
    sets: Mapping[str, DataSet],
    protocols: Sequence[str],
    cells: Sequence[Cell],
    step: Steps,
    follow: bool,
    file: ResultsFile,
    unmeasured: list[str],
    weights: weights_file.FileExperiment | None = None,
    baselines: bool = True,
) -> Iterator[tuple[int, list[Record]]]:
    """Measure what is not yet in `file`; yield each checkpoint's step and the requested records,
    without their results. The names of data sets that cannot be measured are added to `unmeasured`,
    as are those of `protocols`, which the user named, that cannot be measured.
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
            with report_dataset_errors(name, unmeasured):
                tasks.append(Task.of(experiment, name, data, protocols, cells))
        for task in tasks:
            which = f"{task.name} " if task.name else ""
            terminal().print(f"{which}evaluated on: {measured_on(task.evaluator.images)}")
        for note in dict.fromkeys(n for task in tasks for n in task.evaluator.images.notes()):
            terminal().print(note, markup=False)
        start = functools.cache(functools.partial(untrained, experiment))
        config = run_config(folder)
        last = experiment.spec.total_steps if follow else None
        digest = functools.cache(digest_of)  # of all protocols, settings and checkpoints
        for number in steps_of(folder, checkpoints, step, last):
            encoder = functools.cache(functools.partial(restored, number))
            run = {
                "workdir": str(folder.resolve()),
                "method": experiment.raw["objective"]["name"],
                "seed": experiment.train.seed,
                "step": number,
            } | (weights.identity if weights else {})
            probe = experiment.objective.probe
            requests: list[Record] = []
            for task in tasks:
                subject = functools.cache(functools.partial(task.subject, encoder))
                reference = Baselines(task, start, file) if baselines else None
                with report_dataset_errors(task.name, unmeasured):
                    for name, settings in task.settings.items():
                        common = run | {"protocol": name} | task.identity
                        records = {
                            protocol: common | request_settings(protocol, probe, digest)
                            for protocol in settings
                        }
                        try:
                            measure_missing(records, subject, file, reference, config)
                        except NotMeasurable as e:
                            report_unmeasured(name, protocols, task.name, e, unmeasured)
                        requests += records.values()
            yield number, requests


@contextlib.contextmanager
def report_dataset_errors(name: str, unmeasured: list[str]) -> Iterator[None]:
    """Print the errors of a suite's data set instead of raising them, so that the others are
    measured; raise those of a data set without a name.
    """
    try:
        yield
    except UserError as e:
        if not name:
            raise
        terminal().print(f"{name}: {e}")
        unmeasured.append(name)


def report_unmeasured(
    name: str, protocols: Sequence[str], data: str, reason: NotMeasurable, unmeasured: list[str]
) -> None:
    """Print why a protocol is not measured; the command fails if the user named it.

    Raises:
      UserError: it was the only one.
    """
    message = f"{name}: not measured: {reason}"
    if list(protocols) == [name] and not data:
        raise UserError(message) from None
    if protocols:
        unmeasured.append(f"{data}: {name}" if data else name)
    elif isinstance(reason, DoesNotApply):
        return  # the protocol is for other methods
    terminal().print(f"{data}: {message}" if data else message, markup=False)


def measure_missing(
    requests: Mapping[Protocol, Record],
    subject: Callable[[], Subject],
    records: ResultsFile,
    reference: Baselines | None = None,
    config: str | None = None,
) -> None:
    """Measure the requested settings, all of one protocol, that `records` does not hold yet.

    Args:
      requests: settings -> the record without its results.
      reference: baselines to write beside each result.
      config: digest of the run's settings; see `run_config`.

    Raises:
      NotMeasurable: the method or the data do not allow it.
    """
    done = {key(record) for record in records.read()}
    missing = [protocol for protocol, request in requests.items() if key(request) not in done]
    if not missing:
        return
    packages = versions("ssl-jax", "jax")
    started = time.monotonic()
    baselines: dict[Protocol, Numbers] | None = None
    for protocol, numbers in measured(missing, subject()):
        request, prefix = requests[protocol], protocol.prefix
        score = f"{prefix}/{request['protocol']}_{request.get('metric')}"
        if score in numbers:  # the metric that is standard for a suite's data set
            numbers[f"{prefix}/score"] = numbers[score]
        seconds = round(time.monotonic() - started, 3)
        if baselines is None:  # once the protocol is known to work
            baselines = reference.of({m: requests[m] for m in missing}) if reference else {}
        broken = not_finite(numbers)
        if zero := [n for n, value in numbers.items() if n.endswith("_top1") and value == 0]:
            terminal().print(f"{', '.join(zero)} is 0: not one answer is right", markup=False)
        finite = {name: value for name, value in numbers.items() if name not in broken}
        record = request | {"results": finite, "seconds": seconds, "versions": packages}
        record |= {"not_finite": broken} if broken else {}
        record |= {"baselines": baselines[protocol]} if baselines.get(protocol) else {}
        record |= {"config": config} if config else {}
        if distributed.primary():
            records.append(record)
        started = time.monotonic()


def request_settings(protocol: Protocol, probe: Probe, digest: Callable[[Path], str]) -> Record:
    """Return a protocol's settings, and digests of the files that they name; see `named_files`."""
    settings = plain(protocol, probe)
    files = named_files(settings, digest)
    return {"settings": settings} | ({"files": files} if files else {})


def plain(protocol: Protocol, probe: Probe) -> Cell:
    """Return a protocol's settings as JSON values, with the method's layer where it names none."""
    values = dataclasses.asdict(protocol.settled())
    read = dataclasses.asdict(probe.at(values.get("stage"), values.get("pool")))
    layer = {k: v for k, v in read.items() if k in values}
    values = layer | {k: v for k, v in values.items() if v is not None}
    return json.loads(json.dumps(values))  # type: ignore[no-any-return]


def steps_of(
    folder: Path, checkpoints: Checkpoints, step: Steps, last: int | None = None
) -> Iterator[int]:
    """Yield the steps of the checkpoints to measure; with `last` all up to that step, as they are
    written.

    Raises:
      UserError: no such checkpoint, or several processes with `last`.
    """
    if last is not None:
        if jax.process_count() > 1:
            raise UserError("--follow works in one process only; start it beside the run")
        done: set[int] = set()
        while last not in done:
            fresh = [number for number in checkpoints.steps if number not in done]
            yield from fresh
            done.update(fresh)
            if not fresh:
                time.sleep(POLL)
        return
    steps = checkpoints.steps
    if not steps:
        raise UserError(f"{folder} holds no checkpoint yet")
    if step == "all":
        yield from steps
    elif step is not None and step not in steps:
        existing = ", ".join(map(str, steps))
        raise UserError(f"{folder} holds no checkpoint of step {step}; there are: {existing}")
    else:
        yield steps[-1] if step is None else step
