"""Measure checkpoints of runs, or a weights file, with protocols, and print the numbers."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ssl_jax.core import distributed, hub
from ssl_jax.core.config import flag
from ssl_jax.core.errors import UserError, reason
from ssl_jax.core.plain import from_json
from ssl_jax.core.ranges import Whole
from ssl_jax.core.stop import interruptible
from ssl_jax.evals import protocols
from ssl_jax.evals.records import Record, ResultsFile, key
from ssl_jax.run import flags as command_line
from ssl_jax.run import weights_file
from ssl_jax.run.baselines import KINDS, judged
from ssl_jax.run.console import number, styled, terminal
from ssl_jax.run.evaluation import measure
from ssl_jax.run.suites import Cell, DataSet, suite


@dataclass(frozen=True, kw_only=True)
class Flags(weights_file.MeasurementFlags, distributed.ProcessFlags):
    eval: tuple[str, ...] = flag(
        f"protocols, any of {','.join(protocols.known())}; by default those of the run", ()
    )
    step: Whole | Literal["all"] | None = flag(
        "step of the checkpoint; by default the newest", None
    )
    follow: bool = flag("measure each new checkpoint of a run in progress, until its last", False)
    sweep: tuple[str, ...] = flag(
        "'SETTING=VALUE,VALUE' of the protocols; if repeated, every combination is measured",
        (),
        repeated=True,
    )
    cells: Path | None = flag(
        "file of settings to measure, one JSON object per line, in place of --sweep", None
    )
    results: Path | None = flag(
        "file of results; by default eval/results.jsonl in each run's folder", None
    )
    suite: str = flag(
        "a list of data sets to measure on, in place of --data: FILE.py:NAME or suites:NAME", ""
    )
    no_baselines: bool = flag(
        "skip the untrained network and raw pixels; each takes as long again", False
    )


def evaluate(flags: Flags, cells: Sequence[Cell] = ()) -> tuple[list[Record], list[str]]:
    """Measure what is not yet in the files of results, and print all requested numbers.

    Args:
      cells: settings of the protocols to measure, in place of those that the flags name.

    Returns:
      The requested records with their results, and the names of what could not be measured.

    Raises:
      UserError: an error that the user must fix.
    """
    folders = flags.folders
    for name in flags.eval:
        protocols.check(name)
    flags.refuse_both(
        ("sweep", "cells"), ("step", "follow"), ("suite", "data"), ("suite", "eval_data")
    )
    cells = cells or (read_cells(flags.cells) if flags.cells else grid(flags.sweep))
    sets = suite(flags.suite) if flags.suite else {"": DataSet(flags.data, flags.eval_data)}
    console, measured_records = terminal(), []  # type: tuple[Console, list[Record]]
    unmeasured: list[str] = []
    with distributed.session(flags), interruptible("finished measurements are saved"):
        of_runs = ("workdir", "step", "follow")
        weights = weights_file.requested(flags, of_runs, needs_data=not flags.suite)
        if weights:
            console.print(weights.summary, markup=False)
        # The experiment of a file has the data.
        measured = sets if flags.suite or not weights else {"": DataSet()}
        for folder in [weights.path] if weights else folders:
            default = "results.jsonl"
            beside = hub.beside(flags.weights or folder)
            default = f"{beside}.{default}" if weights else f"{folder}/eval/{default}"
            file = ResultsFile(flags.results or Path(default))
            if flags.results:
                file.check()
            measurements = measure(
                *(folder, measured, flags.eval, cells, flags.step),
                *(flags.follow, file, unmeasured, weights),
                baselines=not flags.no_baselines,
            )
            for at_step, requests in measurements:
                results = {key(record): record for record in file.read()}
                records = [results.get(key(request), request) for request in requests]
                show(console, f"{folder}, step {at_step}", records)
                measured_records += [record for record in records if "results" in record]
            console.print(f"Results and their settings are in {file.path}")
        if unmeasured:
            names = ", ".join(dict.fromkeys(unmeasured))
            console.print(f"Not measured: {names}, for the reasons above")
    return measured_records, unmeasured


def grid(sweeps: Sequence[str]) -> list[Cell]:
    """Return every combination of the values of "name=value,value" texts.

    Raises:
      UserError: a text of another form, or a second one of the same setting.
    """
    axes: dict[str, list[tuple[str, Any]]] = {}
    for text in sweeps:
        name, equals, values = text.partition("=")
        if not name or not equals or not values:
            raise UserError(f"--sweep={text}: expected SETTING=VALUE,VALUE")
        if name in axes:
            raise UserError(f"--sweep={text}: {name} is swept twice; write --sweep={name}=A,B")
        axes[name] = [(name, value) for value in command_line.texts(values)]
    return [dict(cell) for cell in itertools.product(*axes.values())]


def read_cells(path: Path) -> list[Cell]:
    """Read settings from a file, one JSON object per line.

    Raises:
      UserError: it cannot be read, or holds something else.
    """
    try:
        cells = [
            from_json(line) for line in path.read_text("utf-8-sig").splitlines() if line.strip()
        ]
    except (OSError, ValueError) as e:
        raise UserError(f"--cells={path}: {reason(e)}") from None
    if not cells or not all(isinstance(cell, dict) for cell in cells):
        raise UserError(f"--cells={path}: expected one JSON object per line")
    return cells


def show(console: Console, title: str, records: Sequence[Record]) -> None:
    """Print results beside their baselines, and where these are not beaten. A record without
    results was not measured.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("protocol, its settings, and what it measured")
    for column in ("trained", "untrained", "raw pixels"):
        table.add_column(column, justify="right", no_wrap=True)
    verdicts = []
    for record in records:
        numbers = record.get("results", {}) | dict.fromkeys(record.get("not_finite", ()), math.nan)
        baselines = record.get("baselines", {})
        settings = " ".join(f"{k}={v}" for k, v in record["settings"].items())
        settings = f"on {record['set']}: {settings}" if "set" in record else settings
        if numbers:
            table.add_row(Text.assemble((record["protocol"], "bold"), f" {settings}"))
        names = {name.partition("/")[2]: name for name in sorted(numbers)}
        titles = protocols.titles(names)
        for short in dict.fromkeys((*titles, *names)):
            name = names[short]
            others = [number(baselines.get(kind, {}).get(name), 4) for kind in KINDS]
            label = styled(f"  {name}  ", (titles.get(short, ""), "dim"))
            table.add_row(label, number(numbers[name], 4), *others)
        verdicts += [f"{record['protocol']}: {line}"] if (line := judged(record)) else []
    if table.row_count:
        console.print(table, soft_wrap=False)
    else:
        console.print(f"{title}: nothing was measured")
    for line in verdicts[:1]:
        more = f" (and {len(verdicts) - 1} more like it)" if verdicts[1:] else ""
        console.print(f"{line}{more}", style="bold", markup=False)
