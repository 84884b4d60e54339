"""`ssl-jax evaluate`: measure checkpoints of runs with named protocols, and sweep their settings.

ssl-jax evaluate --workdir=W --eval=knn,fewshot,clustering
ssl-jax evaluate --workdir=W --step=1000 --eval=knn --data=folder:/train --eval_data=folder:/test
ssl-jax evaluate --workdir='runs/*' --step=all --eval=knn --sweep=k=10,20 --sweep=stage=-1,-2
ssl-jax evaluate --workdir=W --eval=logistic,knn --suite=suites:kornblith
ssl-jax evaluate --workdir=W --follow
ssl-jax evaluate --weights=dino.pth --data=folder:/train --eval=knn

Each number stands beside that of the untrained network and of raw pixels, which are measured once
per data set and settings.

Every result is a line of eval/results.jsonl in its run's folder, or of --results, with all settings
that made it; what is there is not measured again. `ssl-jax results` shows them. Those of a file of
weights are in FILE.results.jsonl, or in --results, with the file's digest.
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ssl_jax.cli import flags as command_line
from ssl_jax.cli import weights_file
from ssl_jax.cli.baselines import KINDS, Baselines, Numbers, judged, run_config, untrained
from ssl_jax.cli.experiment import Experiment
from ssl_jax.cli.sets import Cell, DataSet, Task, suite
from ssl_jax.cli.table import number, terminal
from ssl_jax.core import distributed
from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.plain import from_json
from ssl_jax.evals.base import Protocol, Subject, measured
from ssl_jax.evals.checks import DoesNotApply, NotMeasurable, not_finite
from ssl_jax.evals.results import Record, ResultsFile, key, named_files
from ssl_jax.evals.suite import EvalsConfig
from ssl_jax.objectives.base import Encoder, Probe
from ssl_jax.train import workdir
from ssl_jax.train.checkpoint import Checkpoints

FLAGS = {
    "workdir": "folder of the run to measure; several with commas or as 'runs/*'",
    "weights": weights_file.HELP,
    "eval": f"protocols, some of {','.join(EvalsConfig.known())}; by default those of the run",
    "step": "which checkpoint, or all; by default the newest",
    "follow": "measure each checkpoint of a run that goes on, until its last",
    "sweep": "'SETTING=VALUE,VALUE' of the protocols; given several times: every combination",
    "cells": "file of settings to measure, a JSON object a line, in place of --sweep",
    "results": "file of results; by default eval/results.jsonl in each run's folder",
    "suite": "a list of data sets to measure on, in place of --data: FILE.py:NAME or suites:NAME",
    "data": "labelled training images; by default the run's own",
    "eval_data": "evaluation images; by default the run's own",
    "no_baselines": "leave out the untrained network and raw pixels, which take as long again each",
    "config.backbone.KEY": weights_file.BACKBONE_HELP,
    **distributed.FLAGS,
}
NEWEST = -1  # step
POLL = 5.0  # seconds between two looks for a new checkpoint


def main(argv: list[str]) -> int:
    switches = ("follow", "no_baselines")
    flags, overrides = command_line.parse(
        argv, __doc__, FLAGS, configurable=True, switches=switches, repeated=("sweep",)
    )
    why = "name the folder of a run, --workdir=W, or a file, --weights=F"
    text = "" if flags.weights else command_line.require(flags, "workdir", why)
    folders = workdir.named(text) if text else []
    protocols = flags.eval.split(",") if flags.eval else []
    for name in protocols:
        if name not in EvalsConfig.known():
            raise UserError(f"unknown evaluation {name!r}; {suggest(name, EvalsConfig.known())}")
    exclusive = (("sweep", "cells"), ("step", "follow"), ("suite", "data"), ("suite", "eval_data"))
    for one, other in exclusive:
        if flags[one].value and flags[other].value:
            raise UserError(f"give --{one} or --{other}, not both")
    step = None if flags.step == "all" else command_line.whole("step", flags.step, default=NEWEST)
    cells = read_cells(Path(flags.cells)) if flags.cells else grid(flags.sweep)
    sets = suite(flags.suite) if flags.suite else {"": DataSet(flags.data, flags.eval_data)}
    console, left_out = terminal(), []  # type: tuple[Console, list[str]]
    with distributed.session(flags.flag_values_dict()):
        weights = weights_file.requested(flags, overrides)
        if weights:
            console.print(weights.taken, markup=False)
            folders = [weights.path]
            sets = sets if flags.suite else {"": DataSet()}  # the data are the experiment's
        for folder in folders:
            beside = f"{folder}.results.jsonl" if weights else folder / "eval" / "results.jsonl"
            file = ResultsFile(Path(flags.results or beside))
            asked_of = measure(
                *(folder, sets, protocols, cells, step, flags.follow, file, left_out, weights),
                baselines=not flags.no_baselines,
            )
            for at, asked in asked_of:
                show(console, f"{folder}, step {at}", asked, file.read())
            console.print(f"Written with their protocol to {file.path}")
    if left_out:
        console.print(f"Not measured: {', '.join(dict.fromkeys(left_out))}, for the reasons above")
    return 2 if left_out else 0


def grid(sweeps: Sequence[str]) -> list[Cell]:
    """Every combination of the values of "name=value,value" texts.

    Raises:
      UserError: a text of another form.
    """
    axes = []
    for text in sweeps:
        name, equals, values = text.partition("=")
        if not name or not equals or not values:
            raise UserError(f"--sweep={text}: expected SETTING=VALUE,VALUE")
        axes.append([(name, value) for value in command_line.texts(values)])
    return [dict(cell) for cell in itertools.product(*axes)]


def read_cells(path: Path) -> list[Cell]:
    """The settings in a file, a JSON object a line.

    Raises:
      UserError: it cannot be read, or holds something else.
    """
    try:
        cells = [from_json(line) for line in path.read_text().splitlines() if line.strip()]
    except (OSError, ValueError) as e:
        raise UserError(f"--cells={path}: {e}") from None
    if not cells or not all(isinstance(cell, dict) for cell in cells):
        raise UserError(f"--cells={path}: expected a JSON object a line")
    return cells


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


def show(console: Console, title: str, asked: Sequence[Record], records: list[Record]) -> None:
    """The answers to what was asked, each beside its baselines, and where these are not beaten."""
    answers = {key(record): record for record in records}
    table = Table(title=title, title_justify="left")
    table.add_column("protocol, its settings, and what it measured")
    for column in ("trained", "untrained", "raw pixels"):
        table.add_column(column, justify="right", no_wrap=True)
    verdicts = []
    for question in asked:
        record = answers.get(key(question), {})
        found = record.get("results", {}) | dict.fromkeys(record.get("not_finite", ()), math.nan)
        beside = record.get("baselines", {})
        said = " ".join(f"{k}={v}" for k, v in question["settings"].items())
        said = f"on {question['set']}: {said}" if "set" in question else said
        if found:
            table.add_row(Text.assemble((question["protocol"], "bold"), f" {said}"))
        for name, value in sorted(found.items()):
            others = [number(beside.get(who, {}).get(name), 4) for who in KINDS]
            table.add_row(f"  {name}", number(value, 4), *others)
        verdicts += [f"{question['protocol']}: {line}"] if (line := judged(record)) else []
    if table.row_count:
        console.print(table, soft_wrap=False)
    else:
        console.print(f"{title}: nothing was measured")
    for line in verdicts[:1]:
        more = f" (and {len(verdicts) - 1} more like it)" if verdicts[1:] else ""
        console.print(f"{line}{more}", style="bold", markup=False)
