"""`ssl-jax study`: train the runs of a study one after another, and show them in one table.

ssl-jax study --study=studies:data_and_steps --workdir=S
ssl-jax study --study=FILE.py:NAME --workdir=S --data=folder:/images --config.train.steps=1000
ssl-jax study --study=studies:jft_digits --workdir=S --fit=data.fraction --metrics=knn_top1
ssl-jax study --study=study_jft:small --workdir=S --page=jft.md

The folder of a run NAME is S/NAME. Run again, the command skips finished runs and resumes an
unfinished one. --page writes the page that the study describes, with tables and figures, from
what the folder holds; with --stored nothing is trained. `python -m launch.slurm --study=...` makes
a job array of the runs; `ssl-jax evaluate --workdir='S/*'` measures more of them.
"""

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_jax import cli
from ssl_jax.cli.results import Row, TableFlags, ordered, rendered, show
from ssl_jax.core.config import flag
from ssl_jax.core.errors import UserError
from ssl_jax.core.watch import INTERRUPTED, PREEMPTED
from ssl_jax.evals import log_linear
from ssl_jax.run import flags as command_line
from ssl_jax.run import study_page
from ssl_jax.run.study import Planned, finished, last_numbers, read

STOPPED = (INTERRUPTED, PREEMPTED)  # exit codes


@dataclass(frozen=True, kw_only=True)
class Flags(TableFlags, command_line.ConfigFlags):
    study: str = flag("FILE.py:NAME, or one of ours, studies:data_and_steps")
    workdir: Path = flag("folder of the study; each run has a folder in it")
    data: str = flag("training images of all runs", "")
    eval_data: str = flag("evaluation images of all runs", "")
    metrics: tuple[str, ...] = flag(
        "columns of the table, knn_top1,rankme; by default all metrics of the evaluations", ()
    )
    stored: bool = flag("train and measure nothing: show what the folder holds", False)
    page: Path | None = flag("write the study's page, Markdown, to this file, FILE.md", None)
    fit: str = flag(
        "a key with numbers, data.fraction: adds metric = a + b log10(key), per train.seed", ""
    )


def main(argv: list[str]) -> int:
    flags = command_line.parse(argv, __doc__, Flags)
    runs, folder = read(flags.study, flags.overrides), flags.workdir
    failed: list[str] = []
    done = study_page.done(folder)
    for i, run in enumerate([] if flags.stored else runs, 1):
        code, started = 0, time.process_time()
        if not finished(folder / run.name):
            print(f"run {i} of {len(runs)}: {run.name}", file=sys.stderr, flush=True)
            code = cli.run(["train", *run.words(folder, flags.data, flags.eval_data)])
        elif done.get(run.name) == list(run.evaluate):
            continue
        for words in run.evaluations(folder) if code == 0 else ():
            last = cli.run(["evaluate", *words])
            code = last if last in STOPPED else code or last  # data of one may be missing
            if code in STOPPED:
                break
        seconds = time.process_time() - started
        study_page.note(folder, run.name, seconds, run.evaluate if code == 0 else None)
        if code in STOPPED:
            return code
        failed += [run.name] if code else []
    rows = ordered(table(runs, folder, flags.metrics), flags.sort)
    tables = [rows, fits(runs, rows, flags.fit)] if flags.fit else [rows]
    show("\n\n".join(rendered(t, _columns(t), flags.format) for t in tables), flags)
    if flags.page:
        data = {"data": flags.data, "eval_data": flags.eval_data}
        words = [f"--{name}={value}" for name, value in data.items() if value]
        words += [f"--config.{key}={value}" for key, value in flags.overrides]
        study_page.write(flags.page, flags.study, runs, folder, words)
    if failed:
        raise UserError(f"not trained or measured: {', '.join(failed)}, for the reasons above")
    return 0


def _columns(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(column for row in rows for column in row))


def _is_score(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def fits(runs: Sequence[Planned], rows: Sequence[Row], key: str) -> list[Row]:
    """Build one row per metric: the line over the logarithm of the config's `key`, and the 95 %
    interval of its slope over the seeds.

    Raises:
      UserError: a run without a positive number at `key`, or fewer than two of them per seed.
    """
    try:
        sizes = [float(run.changes[key]) for run in runs]
    except (KeyError, TypeError, ValueError):
        raise UserError(f"--fit={key}: expected a number at {key} in every run") from None
    seeds = [run.changes.get("train.seed", 0) for run in runs]
    metrics = dict.fromkeys(name for row in rows for name in row if _is_score(row[name]))
    out: list[Row] = []
    for name in metrics:
        points = [i for i, row in enumerate(rows) if _is_score(row.get(name))]
        try:
            line = log_linear.fit(
                [sizes[i] for i in points],
                [rows[i][name] for i in points],
                [seeds[i] for i in points],
            )
        except UserError as e:
            raise UserError(f"--fit={key}: {name}: {e}") from None
        out.append(
            {"metric": name, "at 1": line.at_one, "per factor 10": line.slope}
            | {"low": line.low, "high": line.high, "seeds": line.groups}
        )
    return out


def table(runs: Sequence[Planned], folder: Path, metrics: Sequence[str] = ()) -> list[Row]:
    """Build one row per run: its name, the settings in which the runs differ, its last numbers."""
    keys = dict.fromkeys(key for run in runs for key in run.changes)
    differ = [key for key in keys if len({str(run.changes.get(key)) for run in runs}) > 1]
    configs = {"config"} if len({run.config for run in runs}) > 1 else set()
    rows = []
    for run in runs:
        row: Row = {"run": run.name} | dict.fromkeys(configs, run.config)
        row |= {key: str(run.changes[key]) for key in differ if key in run.changes}
        last = last_numbers(folder / run.name)
        numbers = {
            k.partition("/")[2]: v for k, v in last.items() if k.startswith(("eval/", "diag/"))
        }
        names = metrics or numbers
        row |= {"step": last.get("step")} | {name: numbers.get(name) for name in names}
        rows.append(row)
    return rows
