"""`ssl-jax results`: what was measured so far, filtered, averaged over seeds, compared.

ssl-jax results --workdir='runs/*' --where=protocol=knn --sort=knn_top1
ssl-jax results --workdir='runs/*' --mean=seed --format=latex --output=table.tex
ssl-jax results --workdir='runs/simclr-*' --against='runs/byol-*'
ssl-jax results --workdir='runs/*' --where=protocol=logistic --columns=set

A row is one measurement; of the settings those are shown in which the rows differ.
"""

import csv
import io
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tabulate

from ssl_jax.cli import flags as command_line
from ssl_jax.cli.table import terminal
from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.files import write_text
from ssl_jax.evals.results import Record, ResultsFile
from ssl_jax.train import workdir

FLAGS = {
    "workdir": "folders of runs, with commas or as 'runs/*'",
    "results": "a file that `ssl-jax evaluate --results` wrote, in place of --workdir",
    "where": "COLUMN=VALUE,VALUE: only such rows; given several times: all must hold",
    "sort": "column to sort by, the largest first; -COLUMN: the smallest first",
    "mean": "columns to average over, seed or seed,step: mean and standard deviation",
    "against": "folders to compare those of --workdir with, paired by seed, at their last steps",
    "columns": "a column whose values become columns, of --value, with their mean: set, or step",
    "value": "the number in them; by default score, which the data sets of a suite have",
    "format": "table, csv, markdown or latex; by default a table",
    "output": "file to write to; by default the terminal",
}
FORMATS = {"table": "simple", "csv": "", "markdown": "github", "latex": "latex_booktabs"}
Row = dict[str, Any]
# Columns that tell a row from others, in reading order; settings come after them.
NAMES = ("workdir", "method", "seed", "step", "protocol")
RUN = ("workdir", "method", "seed", "step")  # what results that are compared may differ in


def main(argv: list[str]) -> int:
    flags, _ = command_line.parse(argv, __doc__, FLAGS, repeated=("where",))
    style = flags.format or "table"
    if style not in FORMATS:
        raise UserError(f"--format={style}: {suggest(style, FORMATS)}")
    if flags.columns and flags.against:
        raise UserError("give --columns or --against, not both")
    if flags.mean and flags.against:
        raise UserError("give --mean or --against, not both: pairs of runs are averaged already")
    if flags.value and not flags.columns:
        raise UserError("--value is the number in the columns of --columns; give that too")
    rows, metrics = select(read(flags.workdir, flags.results), flags.where)
    if flags.against:
        others, more = select(read(flags.against, ""), flags.where)
        rows, metrics = paired(rows, others, [name for name in metrics if name in more])
    elif flags.mean:
        rows = averaged(rows, metrics, flags.mean.split(","))
    if not rows:
        raise UserError("no such results; measure with `ssl-jax evaluate`")
    if flags.columns:
        rows, metrics = across(rows, metrics, flags.columns, flags.value or "score")
    rows = ordered(rows, flags.sort)
    columns = varying(rows, metrics)
    text = text_of(style, columns, [[shown(row.get(c)) for c in columns] for row in rows])
    if flags.output:
        write_text(Path(flags.output), text + "\n")
    else:
        terminal().print(text)
    return 0


def read(folders: str, file: str) -> list[Record]:
    """The records of these folders, or of one file.

    Raises:
      UserError: neither is given, or the file is not there.
    """
    if file:
        if not Path(file).is_file():
            raise UserError(f"--results={file}: no such file")
        return ResultsFile(Path(file)).read()
    if not folders:
        raise UserError("--workdir is missing: name the folders of runs, --workdir='runs/*'")
    return [
        record
        for folder in workdir.named(folders)
        for record in ResultsFile(folder / "eval" / "results.jsonl").read()
    ]


def flat(record: Record) -> tuple[Row, Row]:
    """(what was asked, column -> value; the answers, column -> number)."""
    asked = {k: v for k, v in record.items() if k not in ("settings", "results", "versions")}
    asked["workdir"] = Path(asked["workdir"]).name
    settings = {k: str(v) if isinstance(v, list) else v for k, v in record["settings"].items()}
    # A setting's name may be that of another column: the seed of a probe is not that of the run.
    settings = {f"{asked['protocol']}.{k}" if k in asked else k: v for k, v in settings.items()}
    answers = {name.rpartition("/")[2]: value for name, value in record["results"].items()}
    return asked | settings, answers


def select(records: Sequence[Record], where: Sequence[str]) -> tuple[list[Row], list[str]]:
    """The rows for which every "column=value,value" of `where` holds, and the names of their
    numbers.

    Raises:
      UserError: a text of another form, or a column that no row has.
    """
    pairs = [flat(record) for record in records]
    for text in where:
        name, equals, values = text.partition("=")
        if not equals:
            raise UserError(f"--where={text}: expected COLUMN=VALUE,VALUE")
        known = {column for asked, _ in pairs for column in asked}
        if pairs and name not in known:
            raise UserError(f"--where={text}: no column {name!r}; {suggest(name, known)}")
        # As a number is written, and as it was typed: "none" is None or the word.
        wanted = {*map(str, command_line.values(values)), *command_line.texts(values)}
        pairs = [pair for pair in pairs if str(pair[0].get(name)) in wanted]
    metrics = dict.fromkeys(name for _, answers in pairs for name in answers)
    return [asked | answers for asked, answers in pairs], list(metrics)


def asked_of(row: Row, metrics: Sequence[str], without: Sequence[str]) -> tuple:
    """What tells a row from others, but for some columns; hashable."""
    left_out = (*metrics, "seconds", *without)
    return tuple(sorted((k, str(v)) for k, v in row.items() if k not in left_out))


def averaged(rows: Sequence[Row], metrics: Sequence[str], over: Sequence[str]) -> list[Row]:
    """One row for those that differ in the columns `over` (and the folder) only.

    Raises:
      UserError: no row has such a column.
    """
    for name in over:
        if not any(name in row for row in rows):
            raise UserError(f"--mean={name}: no such column")
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(asked_of(row, metrics, ("workdir", *over)), []).append(row)
    out = []
    for group in groups.values():
        first = {k: v for k, v in group[0].items() if k not in ("workdir", "seconds", *over)}
        values = {m: [row[m] for row in group if m in row] for m in metrics}
        out.append(first | {m: Mean(v) for m, v in values.items() if v} | {"n": len(group)})
    return out


class Mean:
    """Of some numbers, shown with their standard deviation."""

    def __init__(self, values: Sequence[float]):
        self.mean = statistics.mean(values)
        self.deviation = statistics.stdev(values) if values[1:] else None

    def __float__(self) -> float:
        return self.mean

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if self.deviation is None else f" ± {self.deviation:.4f}")


def across(
    rows: Sequence[Row], metrics: Sequence[str], field: str, value: str
) -> tuple[list[Row], list[str]]:
    """One row for those that differ in `field`, and in what goes with it, such as the data of a
    set: a column of `value` for each of the field's values, and their mean where all are there.

    Raises:
      UserError: no row has the field, or the value.
    """
    rows = [row for row in rows if value in row and field in row]
    if not rows:
        raise UserError(f"--columns={field}: no result has both {field!r} and --value={value}")
    shown = list(dict.fromkeys(str(row[field]) for row in rows))
    named = [name for name in NAMES if name != field]
    # Of the other columns those tell rows apart in which two of one field value differ.
    known = dict.fromkeys(c for row in rows for c in row)
    others = [c for c in known if c not in (*NAMES, *metrics, field, "seconds", "n")]
    kinds = lambda *names: len({tuple(str(row.get(c)) for c in names) for row in rows})  # noqa: E731
    apart = [c for c in others if kinds(field, *named, c) > kinds(field, *named)]
    tables: dict[tuple, dict[str, Row]] = {}
    for row in rows:
        where = tuple(str(row.get(c)) for c in (*named, *apart))
        tables.setdefault(where, {})[str(row[field])] = row
    out = []
    for cells in tables.values():
        first = next(iter(cells.values()))
        made = {c: first[c] for c in (*named, *apart) if c in first}
        made |= {name: row[value] for name, row in cells.items()}
        if len(cells) == len(shown):
            made["mean"] = statistics.mean(float(row[value]) for row in cells.values())
        out.append(made)
    return out, [*shown, "mean"]


def paired(
    rows: Sequence[Row], others: Sequence[Row], metrics: Sequence[str]
) -> tuple[list[Row], list[str]]:
    """For each number: that of both sides, and their difference with its standard error over the
    pairs, which are of the same seed, protocol, settings and data, each at its last step.

    Raises:
      UserError: there is no pair.
    """
    partners = {pair_of(row, metrics): row for row in newest(others, metrics)}
    groups: dict[tuple, list[tuple[Row, Row]]] = {}
    for row in newest(rows, metrics):
        if pair_of(row, metrics) in partners:
            pair = row, partners[pair_of(row, metrics)]
            groups.setdefault(asked_of(row, metrics, RUN), []).append(pair)
    out = []
    for group in groups.values():
        for metric in metrics:
            values = [(a[metric], b[metric]) for a, b in group if metric in a and metric in b]
            if values:
                gains = [a - b for a, b in values]
                error = statistics.stdev(gains) / len(gains) ** 0.5 if gains[1:] else None
                asked = {k: v for k, v in group[0][0].items() if k not in (*metrics, *RUN)}
                out.append(
                    asked
                    | {
                        "metric": metric,
                        "this": statistics.mean(a for a, _ in values),
                        "other": statistics.mean(b for _, b in values),
                        "difference": statistics.mean(gains),
                        "standard error": error,
                        "pairs": len(values),
                    }
                )
    if not out:
        raise UserError("--against: no two results of the same seed, protocol, settings and data")
    return out, ["metric", "this", "other", "difference", "standard error", "pairs"]


def pair_of(row: Row, metrics: Sequence[str]) -> tuple:
    return asked_of(row, metrics, [name for name in RUN if name != "seed"])


def newest(rows: Sequence[Row], metrics: Sequence[str]) -> list[Row]:
    """Of the results of a run that differ in the step alone the one of the last step."""
    last: dict[tuple, Row] = {}
    for row in sorted(rows, key=lambda row: row["step"]):
        last[asked_of(row, metrics, ("step",))] = row
    return list(last.values())


def ordered(rows: Sequence[Row], by: str) -> list[Row]:
    """Sorted by a column.

    Raises:
      UserError: no row has it.
    """
    name, smallest_first = by.removeprefix("-"), by.startswith("-")
    if not by:
        return list(rows)
    having = [row for row in rows if name in row]
    if not having:
        raise UserError(f"--sort={by}: {suggest(name, {c for row in rows for c in row})}")
    numbers = all(not isinstance(row[name], str) for row in having)
    value: Callable[[Row], Any] = (
        (lambda row: float(row[name])) if numbers else (lambda row: row[name])
    )
    return sorted(having, key=value, reverse=not smallest_first) + [
        row for row in rows if name not in row
    ]


def varying(rows: Sequence[Row], metrics: Sequence[str]) -> list[str]:
    """The columns to show: what names a row, settings in which the rows differ, the numbers."""
    found = dict.fromkeys(c for row in rows for c in row)
    settings = [
        c
        for c in found
        if c not in (*NAMES, *metrics, "seconds", "n")
        and len({str(row[c]) for row in rows if c in row}) > 1
    ]
    names = [c for c in NAMES if c in found]
    return [
        *names,
        *settings,
        *(m for m in metrics if m in found),
        *(c for c in ("n",) if c in found),
    ]


def shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def text_of(style: str, columns: Sequence[str], cells: list[list[str]]) -> str:
    """In one of `FORMATS`."""
    if style == "csv":
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([columns, *cells])
        return out.getvalue().rstrip("\n")
    return tabulate.tabulate(cells, columns, FORMATS[style], disable_numparse=True)
