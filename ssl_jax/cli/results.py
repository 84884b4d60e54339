"""`ssl-jax results`: show measurements, filtered, averaged over seeds or compared.

ssl-jax results --workdir='runs/*' --where=protocol=knn --sort=knn_top1
ssl-jax results --workdir='runs/*' --mean=seed --format=latex --output=table.tex
ssl-jax results --workdir='runs/simclr-*' --against='runs/byol-*'
ssl-jax results --workdir='runs/*' --where=protocol=logistic --columns=set

Each row is one measurement, each number beside those of the untrained network and of raw pixels.
Settings are shown if the rows differ in them. Means are over runs that differ in nothing else.
"""

import csv
import io
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tabulate

from ssl_jax.core.config import flag
from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.files import write_text
from ssl_jax.evals.records import ANSWER, Record, ResultsFile
from ssl_jax.run import flags as command_line
from ssl_jax.run.baselines import KINDS, judged, run_config, run_settings
from ssl_jax.run.console import number, terminal
from ssl_jax.training import workdir

FORMATS = {"table": "simple", "csv": "", "markdown": "github", "latex": "latex_booktabs"}
Row = dict[str, Any]
# Columns that identify a row, in reading order; settings come after them.
NAMES = ("workdir", "method", "seed", "step", "protocol")
RUN = ("workdir", "method", "seed", "step")  # columns in which compared results may differ
# Columns that are not part of the request: duration, and the run's config and folder.
ASIDE = ("seconds", "config", "folder", "n")
BESIDE = tuple(f"{kind}/" for kind in KINDS)


@dataclass(frozen=True, kw_only=True)
class TableFlags(command_line.CommonFlags):
    """Flags of subcommands that print a table."""

    sort: str = flag("column to sort by, the largest first; -COLUMN: the smallest first", "")
    format: Literal["table", "csv", "markdown", "latex"] = flag("form of the table", "table")
    output: Path | None = flag("file to write to; by default the terminal", None)


@dataclass(frozen=True, kw_only=True)
class Flags(TableFlags):
    workdir: str = flag("folders of runs, separated by commas or as 'runs/*'", "")
    results: Path | None = flag(
        "a file that `ssl-jax evaluate --results` wrote, in place of --workdir", None
    )
    where: tuple[str, ...] = flag(
        "COLUMN=VALUE,VALUE: only such rows; if repeated, all conditions must hold",
        (),
        repeated=True,
    )
    mean: tuple[str, ...] = flag(
        "columns to average over, seed or seed,step; shows mean and standard deviation", ()
    )
    against: str = flag(
        "folders to compare with those of --workdir, paired by seed, at their last steps", ""
    )
    columns: str = flag(
        "column whose values become columns of --value, with their mean: set, or step", ""
    )
    value: str = flag(
        "number in these columns; by default score, which the data sets of a suite have", ""
    )


def main(argv: list[str]) -> int:
    flags = command_line.parse(argv, __doc__, Flags)
    flags.refuse_both(("columns", "against"))
    if flags.mean and flags.against:
        raise UserError("give --mean or --against, not both; --against averages over pairs of runs")
    if flags.value and not flags.columns:
        raise UserError("--value is the number in the columns of --columns; set --columns too")
    records = read(flags.workdir, flags.results)
    rows, metrics = select(records, flags.where)
    if flags.against:
        others, more = select(read(flags.against), flags.where)
        own = [m for m in metrics if m in more and not m.startswith(BESIDE)]
        rows, metrics = paired(rows, others, own)
    elif flags.mean:
        rows = averaged(rows, metrics, flags.mean)
    if not rows:
        raise UserError("no such results; measure them with `ssl-jax evaluate`")
    if flags.columns:
        rows, metrics = across(rows, metrics, flags.columns, flags.value or "score")
    rows = ordered(rows, flags.sort)
    columns = varying(rows, metrics)
    show(rendered(rows, columns, flags.format), flags)
    if flags.format == "table" and not flags.output and (line := verdicts(records)):
        terminal().print(line)
    return 0


def verdicts(records: Sequence[Record]) -> str:
    """Return one line if trained features do not beat their baselines, "" if they do."""
    lines = [(record, line) for record in records if (line := judged(record))]
    if not lines:
        return ""
    record, line = lines[0]
    count = sum("baselines" in record for record in records)
    return f"{len(lines)} of {count}: {Path(record['workdir']).name}, {record['protocol']}: {line}"


def read(folders: str, file: Path | None = None) -> list[Record]:
    """Read the records of these folders, or of one file.

    Raises:
      UserError: neither is set, or the file does not exist.
    """
    if file:
        if not file.is_file():
            raise UserError(f"--results={file}: no such file")
        return ResultsFile(file).read()
    if not folders:
        raise UserError("--workdir is missing: name the folders of runs, --workdir='runs/*'")
    return [
        record
        for folder in workdir.named(folders)
        for record in ResultsFile(folder / "eval" / "results.jsonl").read()
    ]


def flat(record: Record) -> tuple[Row, Row]:
    """Split a record: (the request, column -> value; the results, column -> number)."""
    request = {k: v for k, v in record.items() if k not in ("settings", *ANSWER)}
    folder = Path(request["workdir"])
    request |= {"folder": str(folder), "config": record.get("config") or run_config(folder)}
    request["workdir"] = folder.name
    settings = {k: str(v) if isinstance(v, list) else v for k, v in record["settings"].items()}
    # A setting may have the name of another column: the seed of a probe is not that of the run.
    protocol = request["protocol"]
    settings = {f"{protocol}.{k}" if k in request else k: v for k, v in settings.items()}
    results, baselines = {}, record.get("baselines", {})
    for name, value in record["results"].items():
        short = name.rpartition("/")[2]
        results[short] = value
        results |= {
            f"{kind}/{short}": baselines[kind][name]
            for kind in KINDS
            if name in baselines.get(kind, {})
        }
    return request | settings, results


def select(records: Sequence[Record], where: Sequence[str]) -> tuple[list[Row], list[str]]:
    """Select the rows for which every "column=value,value" of `where` holds; return them and the
    names of their numbers.

    Raises:
      UserError: a text of another form, or a column that no row has.
    """
    pairs = [flat(record) for record in records]
    for text in where:
        name, equals, values = text.partition("=")
        if not equals:
            raise UserError(f"--where={text}: expected COLUMN=VALUE,VALUE")
        columns = {column for request, _ in pairs for column in request}
        if pairs and name not in columns:
            raise UserError(f"--where={text}: no column {name!r}; {suggest(name, columns)}")
        # Both as a number is written and as the user typed it: "none" is None or the word.
        options = {*map(str, command_line.values(values)), *command_line.texts(values)}
        pairs = [pair for pair in pairs if str(pair[0].get(name)) in options]
    metrics = dict.fromkeys(name for _, results in pairs for name in results)
    return [request | results for request, results in pairs], list(metrics)


def request_of(row: Row, metrics: Sequence[str], without: Sequence[str]) -> tuple:
    """Return a hashable key that identifies a row, ignoring the columns `without`."""
    ignored = (*metrics, *ASIDE, *without)
    return tuple(sorted((k, str(v)) for k, v in row.items() if k not in ignored))


def averaged(rows: Sequence[Row], metrics: Sequence[str], over: Sequence[str]) -> list[Row]:
    """Average the rows that differ only in the columns `over`, of runs whose configs do not differ
    otherwise; a run that occurs twice counts once. Keys in which other runs differ are columns.

    Raises:
      UserError: no row has such a column.
    """
    for name in over:
        if not any(name in row for row in rows):
            raise UserError(f"--mean={name}: no such column")
    groups: dict[tuple, dict[tuple, Row]] = {}
    for row in rows:
        request = (*request_of(row, metrics, ("workdir", *over)), row["config"])
        same, place = groups.setdefault(request, {}), tuple(str(row.get(name)) for name in over)
        if place in same and same[place]["folder"] != row["folder"]:
            folders = f"{same[place]['folder']} and {row['folder']}"
            note(f"{folders} differ only in their folder; the second one counts")
        same[place] = row
    out, configs = [], differing(rows)
    for group in (list(same.values()) for same in groups.values()):
        first = {k: v for k, v in group[0].items() if k not in ("workdir", *ASIDE, *over)}
        first |= configs.get(group[0]["folder"], {})
        values = {m: [row[m] for row in group if m in row] for m in metrics}
        out.append(first | {m: Mean(v) for m, v in values.items() if v} | {"n": len(group)})
    return out


def differing(rows: Sequence[Row]) -> dict[str, Row]:
    """Map each run's folder to its values of the config's keys in which the runs differ, except the
    seed.
    """
    configs = {row["folder"]: run_settings(Path(row["folder"])) for row in rows}
    missing = [row["folder"] for row in rows if not row["config"]]
    if len(configs) > 1 and missing:
        folders = ", ".join(dict.fromkeys(missing))
        note(f"no config.json in {folders}; assuming that these runs differ only in the seed")
    flat = {folder: settings for folder, settings in configs.items() if settings}
    keys = dict.fromkeys(key for settings in flat.values() for key in settings)
    distinct = [k for k in keys if len({str(settings.get(k)) for settings in flat.values()}) > 1]
    return {f: {k: str(settings.get(k)) for k in distinct} for f, settings in flat.items()}


def note(text: str) -> None:
    """Print a remark to stderr, so that it is not part of the table."""
    print(f"ssl-jax results: {text}", file=sys.stderr)


class Mean:
    """Mean of some numbers, printed with their standard deviation."""

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
    """Merge rows that differ in `field`, and in what depends on it, such as the data of a set, into
    one row: a column of `value` for each of the field's values, and their mean if all exist.

    Raises:
      UserError: no row has the field, or the value.
    """
    rows = [row for row in rows if value in row and field in row]
    if not rows:
        raise UserError(f"--columns={field}: no result has both {field!r} and --value={value}")
    labels = list(dict.fromkeys(str(row[field]) for row in rows))
    named = [name for name in NAMES if name != field]
    # Another column identifies rows if two rows with the same field value differ in it.
    columns = dict.fromkeys(c for row in rows for c in row)
    others = [c for c in columns if c not in (*NAMES, *metrics, field, *ASIDE)]
    kinds = lambda *names: len({tuple(str(row.get(c)) for c in names) for row in rows})  # noqa: E731
    distinct = [c for c in others if kinds(field, *named, c) > kinds(field, *named)]
    tables: dict[tuple, dict[str, Row]] = {}
    for row in rows:
        where = tuple(str(row.get(c)) for c in (*named, *distinct))
        tables.setdefault(where, {})[str(row[field])] = row
    out = []
    for cells in tables.values():
        first = next(iter(cells.values()))
        merged = {c: first[c] for c in (*named, *distinct) if c in first}
        merged |= {name: row[value] for name, row in cells.items()}
        if len(cells) == len(labels):
            merged["mean"] = statistics.mean(float(row[value]) for row in cells.values())
        out.append(merged)
    return out, [*labels, "mean"]


def paired(
    rows: Sequence[Row], others: Sequence[Row], metrics: Sequence[str]
) -> tuple[list[Row], list[str]]:
    """Compare each number of both sides: their difference with its standard error over the pairs,
    which have the same seed, protocol, settings and data, each at its last step.

    Raises:
      UserError: no pair, or several runs of one side have the same seed, or different configs.
    """
    for name, side in (("workdir", rows), ("against", others)):
        check_seeds(name, newest(side, metrics), metrics)
    partners = {pair_of(row, metrics): row for row in newest(others, metrics)}
    groups: dict[tuple, list[tuple[Row, Row]]] = {}
    for row in newest(rows, metrics):
        if pair_of(row, metrics) in partners:
            pair = row, partners[pair_of(row, metrics)]
            groups.setdefault(request_of(row, metrics, RUN), []).append(pair)
    out = []
    for group in groups.values():
        for metric in metrics:
            values = [(a[metric], b[metric]) for a, b in group if metric in a and metric in b]
            if values:
                gains = [a - b for a, b in values]
                error = statistics.stdev(gains) / len(gains) ** 0.5 if gains[1:] else None
                ignored = (*metrics, *RUN, *ASIDE)
                request = {k: v for k, v in group[0][0].items() if k not in ignored}
                request = {k: v for k, v in request.items() if not k.startswith(BESIDE)}
                out.append(
                    request
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


def check_seeds(flag: str, rows: Sequence[Row], metrics: Sequence[str]) -> None:
    """Check that the runs of one side differ only in their seed.

    Raises:
      UserError: they differ in more, or two have the same seed.
    """
    seeds: dict[tuple, Row] = {}
    sides: dict[tuple, Row] = {}
    for row in rows:
        same = seeds.setdefault(pair_of(row, metrics), row)
        first = sides.setdefault(request_of(row, metrics, RUN), row)
        if first["config"] != row["config"]:
            keys = differing([first, row]).get(row["folder"], {})
            raise UserError(
                f"--{flag}: {first['folder']} and {row['folder']} differ in more than the seed: "
                f"{', '.join(keys) or 'their configs'}"
            )
        if same["folder"] != row["folder"]:
            raise UserError(
                f"--{flag}: {same['folder']} and {row['folder']} have the same seed; name one run "
                "per seed"
            )


def pair_of(row: Row, metrics: Sequence[str]) -> tuple:
    """Return a key that is equal for the two results of a pair."""
    return request_of(row, metrics, [name for name in RUN if name != "seed"])


def newest(rows: Sequence[Row], metrics: Sequence[str]) -> list[Row]:
    """Select the last step of each run's results that differ only in the step."""
    last: dict[tuple, Row] = {}
    for row in sorted(rows, key=lambda row: row["step"]):
        last[(*request_of(row, metrics, ("step",)), row["folder"])] = row
    return list(last.values())


def ordered(rows: Sequence[Row], by: str) -> list[Row]:
    """Sort by a column, rows without it last.

    Raises:
      UserError: no row has it.
    """
    name, smallest_first = by.removeprefix("-"), by.startswith("-")
    if not by:
        return list(rows)
    sortable = [row for row in rows if name in row]
    if not sortable:
        raise UserError(f"--sort={by}: {suggest(name, {c for row in rows for c in row})}")
    numbers = all(not isinstance(row[name], str) for row in sortable)
    value: Callable[[Row], Any] = (
        (lambda row: float(row[name])) if numbers else (lambda row: row[name])
    )
    return sorted(sortable, key=value, reverse=not smallest_first) + [
        row for row in rows if name not in row
    ]


def varying(rows: Sequence[Row], metrics: Sequence[str]) -> list[str]:
    """List the columns to show: those of `NAMES`, settings that differ, the numbers."""
    columns = dict.fromkeys(c for row in rows for c in row)
    settings = [
        c
        for c in columns
        if c not in (*NAMES, *metrics, *ASIDE)
        and len({str(row[c]) for row in rows if c in row}) > 1
    ]
    names = [c for c in NAMES if c in columns]
    return [
        *names,
        *settings,
        *(m for m in metrics if m in columns),
        *(c for c in ("n",) if c in columns),
    ]


def show(text: str, flags: TableFlags) -> None:
    """Print a text, or write it to --output."""
    if flags.output:
        write_text(flags.output, text + "\n")
    else:
        terminal().print(text)


def rendered(rows: Sequence[Row], columns: Sequence[str], style: str) -> str:
    """Return these columns of the rows as the text of a table in one of `FORMATS`."""
    cells = [[format_value(row.get(column)) for column in columns] for row in rows]
    return text_of(style, columns, cells)


def format_value(value: Any) -> str:
    """Format a cell; None is empty."""
    if value is None:
        return ""
    return number(value, 4) if isinstance(value, float) else str(value)


def text_of(style: str, columns: Sequence[str], cells: list[list[str]]) -> str:
    """Format the table in one of `FORMATS`."""
    if style == "csv":
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([columns, *cells])
        return out.getvalue().rstrip("\n")
    return tabulate.tabulate(cells, columns, FORMATS[style], disable_numparse=True)
