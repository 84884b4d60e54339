"""Tables of the page: the runs' settings, their measures, and the results of `ssl-jax evaluate`."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ssl_jax.report.markup import Markup, tag
from ssl_jax.report.run import BASELINES, Run, settings

MOST = 300  # rows of results
ASIDE = ("diag/collapse", "diag/dimensions")  # shown as a note of the run; part of RankMe


class Number(NamedTuple):
    """A number as it is written; `best` of its row or not."""

    text: str
    best: bool = False


class Row(NamedTuple):
    """Last values of one measure: trained of every run, then each baseline of every run.

    Attributes:
      strip: a drawing of them from 0 to 1, for scores.
    """

    name: str
    numbers: Sequence[Number]
    strip: Markup


class Measurement(NamedTuple):
    """One number of `ssl-jax evaluate` in all runs, with its baselines, protocol and data."""

    metric: str
    numbers: Sequence[Number]
    protocol: str
    options: str
    step: str
    data: str


class Measurements(NamedTuple):
    """Titles of the columns of numbers, at most `MOST` rows, and the number of all rows."""

    columns: Sequence[str]
    rows: Sequence[Measurement]
    total: int


def facts(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """List the facts: (name, its text in each run)."""
    names = dict.fromkeys(name for run in runs for name in run.facts)
    return [(name, [run.facts.get(name, "") for run in runs]) for name in names]


def configs(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """List all settings, (key, its value in each run); for several runs, only those in which they
    differ.
    """
    flattened = [settings(run.config) for run in runs]
    keys = sorted({key for each in flattened for key in each})
    if len(runs) > 1:
        keys = [key for key in keys if len({each.get(key) for each in flattened}) > 1]
    return [(key, [each.get(key, "") for each in flattened]) for key in keys]


def scored(metric: str, scores: tuple[str, ...]) -> bool:
    """Tell whether a metric is a score: larger is better, and 1 is perfect."""
    return metric.split("/")[-1].startswith(scores)


def measures(metrics: Iterable[str], names: Mapping[str, str]) -> list[str]:
    """Select the metrics `eval/...` and then `diag/...`, each in the order of `names`."""
    order = {name: position for position, name in enumerate(names)}
    place = lambda m: (m.startswith("diag/"), order.get(m.split("/")[-1], len(order)))  # noqa: E731
    selected = (m for m in metrics if m.startswith(("eval/", "diag/")) and m not in ASIDE)
    return sorted(dict.fromkeys(selected), key=place)


def title(metric: str, names: Mapping[str, str]) -> str:
    """Return the display name of a metric."""
    return names.get(metric.split("/")[-1]) or metric.partition("/")[2].replace("_", " ")


def final(runs: Sequence[Run], names: Mapping[str, str], scores: tuple[str, ...]) -> list[Row]:
    """List the last value of every measure beside its baselines, the best score per row marked."""
    rows = []
    for metric in measures((metric for run in runs for metric in run.last), names):
        prefixes = ("", *(f"{prefix}/" for prefix in BASELINES))
        groups = [[run.last.get(prefix + metric) for run in runs] for prefix in prefixes]
        finite = [v for group in groups for v in group if v is not None and math.isfinite(v)]
        best = max(finite) if finite and scored(metric, scores) else None
        numbers = [_number(value, best) for group in groups for value in group]
        strip = Markup("") if best is None else _strip(groups)
        rows.append(Row(title(metric, names), numbers, strip))
    return rows


def _number(value: float | None, best: float | None = None) -> Number:
    if value is None:
        return Number("-")
    if not math.isfinite(value):
        return Number("no score")
    return Number(f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}", value == best)


def _strip(groups: Sequence[Sequence[float | None]]) -> Markup:
    """Draw a line from 0 to 1: a disc for trained, a ring for untrained, a bar for raw pixels."""
    parts = [tag("line", x1=4, x2=116, y1=9, y2=9, class_="axis")]
    trained, untrained, pixels = (
        [v if v is not None and math.isfinite(v) else None for v in group] for group in groups
    )
    at = lambda value: f"{4 + 112 * min(max(value, 0), 1):.1f}"  # noqa: E731
    for run, value in enumerate(pixels):
        if value is not None:
            x = at(value)
            parts.append(tag("line", x1=x, x2=x, y1=2, y2=16, class_=f"bar c{run}"))
    for values, kind in ((untrained, "ring"), (trained, "disc")):
        for run, value in enumerate(values):
            if value is not None:
                parts.append(tag("circle", cx=at(value), cy=9, r=4, class_=f"{kind} c{run}"))
    return tag("svg", *parts, viewBox="0 0 120 18", class_="strip", aria_hidden="true")


def results(runs: Sequence[Run]) -> Measurements | None:
    """List `eval/results.jsonl`, one row per measurement; None without any."""
    measurements: dict[tuple[str, ...], dict[tuple[str, str], float]] = {}
    for run in runs:
        for record in sorted(run.results, key=lambda record: record.get("step", 0)):
            options = " ".join(f"{k}={v}" for k, v in record.get("settings", {}).items())
            data = f"{record.get('data', '')} / {record.get('eval_data', '')}"
            sides = {"": record["results"], **record.get("baselines", {})}
            for metric in record["results"]:
                key = metric, record.get("protocol", ""), options, str(record.get("step")), data
                measured = measurements.setdefault(key, {})
                for kind, numbers in sides.items():
                    if isinstance(numbers.get(metric), (int, float)):
                        measured[kind, run.name] = numbers[metric]
    if not measurements:
        return None
    present = {kind for values in measurements.values() for kind, _ in values}
    kinds = [kind for kind in ("", *BASELINES) if kind in present]
    columns = [(kind, run.name) for kind in kinds for run in runs]
    rows = [
        Measurement(
            metric, [_number(values.get(c)) for c in columns], protocol, options, step, data
        )
        for (metric, protocol, options, step, data), values in measurements.items()
    ]
    titles = [" ".join(filter(None, (name, BASELINES.get(kind, "")))) for kind, name in columns]
    return Measurements(titles, rows[:MOST], len(rows))
