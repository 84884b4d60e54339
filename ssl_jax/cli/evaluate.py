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

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ssl_jax.core import distributed
from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.plain import from_json
from ssl_jax.core.stop import interruptible
from ssl_jax.evals.evaluator import EvalsConfig
from ssl_jax.evals.records import Record, ResultsFile, key
from ssl_jax.run import flags as command_line
from ssl_jax.run import weights_file
from ssl_jax.run.baselines import KINDS, judged
from ssl_jax.run.console import number, terminal
from ssl_jax.run.evaluation import NEWEST, measure
from ssl_jax.run.suites import Cell, DataSet, suite
from ssl_jax.train import workdir

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
    "eval_data": "evaluation images; by default the run's own, or what --data holds out",
    "no_baselines": "leave out the untrained network and raw pixels, which take as long again each",
    "config.backbone.KEY": weights_file.BACKBONE_HELP,
    **distributed.FLAGS,
}


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

    def work() -> int:
        weights = weights_file.requested(flags, overrides)
        if weights:
            console.print(weights.taken, markup=False)
        # Those of a file are its experiment's data.
        measured = sets if flags.suite or not weights else {"": DataSet()}
        for folder in [weights.path] if weights else folders:
            beside = f"{folder}.results.jsonl" if weights else folder / "eval" / "results.jsonl"
            file = ResultsFile(Path(flags.results or beside))
            asked_of = measure(
                *(folder, measured, protocols, cells, step, flags.follow, file, left_out, weights),
                baselines=not flags.no_baselines,
            )
            for at, asked in asked_of:
                show(console, f"{folder}, step {at}", asked, file.read())
            console.print(f"Written with their protocol to {file.path}")
        if left_out:
            names = ", ".join(dict.fromkeys(left_out))
            console.print(f"Not measured: {names}, for the reasons above")
        return 2 if left_out else 0

    with distributed.session(flags.flag_values_dict()):
        return interruptible(work, "what was measured is written")


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
