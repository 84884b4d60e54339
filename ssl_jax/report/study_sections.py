"""Sections of a study's page: what they share, and the table of means.

A study's file lists them in its `get_page`. Each selects points by their labels, and writes "not
run" where a planned run has no number, "no score" where its number is not finite. Figures are in
`study_figures`, sections that state a finding in `study_findings`.
"""

import itertools
import math
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.plain import is_number
from ssl_jax.report.markup import Markup

NOT_RUN, NO_SCORE = "not run", "no score"
BASELINES = {"untrained/": "untrained", "pixels/": "raw pixels"}  # by their prefix
PROTOCOL = "protocol"  # the label of points from records
SEED = "seed"  # the label over which numbers are averaged


@dataclass(frozen=True)
class Point:
    """Numbers of one measurement of a planned run; none if it was not run.

    Attributes:
      labels: the run's place in the study, and the settings of the protocol.
      numbers: name -> number, "eval/knn_top1", "untrained/eval/knn_top1", "train/accuracy"; NaN
        if it was measured and is not finite.
    """

    labels: Mapping[str, Any]
    numbers: Mapping[str, float] = field(default_factory=dict)

    def score(self, metric: str) -> float | None:
        """Return a number, or of a name with {} the mean of all numbers with whole numbers in its
        place; None if there is none or one is not finite.
        """
        values = [value for _, value in indexed(self, metric)]
        return statistics.mean(values) if values and all(map(math.isfinite, values)) else None


Where = Mapping[str, Any]
Draw = Callable[[str, Markup], str]  # writes a figure, returns the Markdown that shows it


@dataclass(frozen=True, kw_only=True)
class StudySection:
    """Part of a page: a heading, a paragraph, and what its class adds.

    Attributes:
      title: its heading.
      text: paragraph on what is shown; no statement on the outcome, which another run may change.
      where: labels that its points must have, each a value or a tuple of values, in which None
        stands for points without the label. Without "protocol" it selects what the runs measured
        themselves, with it records of `ssl-jax evaluate`.
    """

    title: str
    text: str = ""
    where: Where = field(default_factory=dict)

    def select(self, points: Sequence[Point]) -> list[Point]:
        where: dict[str, Any] = {PROTOCOL: None} | dict(self.where)
        sets = {k: v if isinstance(v, tuple) else (v,) for k, v in where.items()}
        return [p for p in points if all(p.labels.get(k) in v for k, v in sets.items())]

    def body(self, points: Sequence[Point], draw: Draw) -> list[str]:
        """Return the paragraphs below `text`, of the points that were selected."""
        raise NotImplementedError

    def findings(self, points: Sequence[Point]) -> list[str]:
        """Return statements on the outcome that follow from the numbers, one sentence each."""
        return []


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def mean(points: Sequence[Point], metric: str) -> str:
    """Format the mean of a metric over some seeds with its standard deviation."""
    values = scores(points, metric)
    if not values:
        return missing(points, metric)
    spread = f" ± {statistics.stdev(values):.3f}" if values[1:] else ""
    return f"{statistics.mean(values):.3f}{spread}"


def missing(points: Iterable[Point], metric: str) -> str:
    """Return what stands in place of a number that these points do not give."""
    numbers = [value for p in points for _, value in indexed(p, metric)]
    return NOT_RUN if all(map(math.isfinite, numbers)) else NO_SCORE


def scores(points: Iterable[Point], metric: str) -> list[float]:
    """List the finite scores of some points."""
    return [value for p in points if (value := p.score(metric)) is not None]


def values_of(points: Sequence[Point], label: str) -> list[Any]:
    """List the values of a label: numbers in order, others in order of appearance.

    Raises:
      UserError: there are points, and none has it.
    """
    values = list(dict.fromkeys(p.labels[label] for p in points if label in p.labels))
    if points and not values:
        names = {name for p in points for name in p.labels}
        raise UserError(f"page: no run has the label {label!r}; {suggest(label, names)}")
    return sorted(values) if all(map(is_number, values)) else values


def grouped(points: Sequence[Point], labels: Sequence[str]) -> dict[tuple, list[Point]]:
    """Group the points that have all of these labels by their values, in the order of `values_of`.

    Raises:
      UserError: see `values_of`.
    """
    orders = [values_of(points, label) for label in labels]
    groups: dict[tuple, list[Point]] = {}
    for p in points:
        if all(label in p.labels for label in labels):
            groups.setdefault(tuple(p.labels[label] for label in labels), []).append(p)
    places = {
        key: [order.index(value) for order, value in zip(orders, key, strict=True)]
        for key in groups
    }
    return {key: groups[key] for key in sorted(groups, key=places.__getitem__)}


def seeds_of(groups: Iterable[Sequence[Point]], metrics: Iterable[str]) -> str:
    """State how many seeds the numbers of each of these groups have, at least and at most."""
    counts = [
        len({p.labels.get(SEED) for p in group if p.score(metric) is not None})
        for group, metric in itertools.product(groups, metrics)
    ]
    counts = [count for count in counts if count]
    if not counts:
        return NOT_RUN
    low, high = min(counts), max(counts)
    if high == 1:
        return "1 seed, so that no difference can be told from chance"
    return f"{high} seeds" if low == high else f"{low} to {high} seeds"


def joined(point: Point, labels: Sequence[str]) -> str:
    """Name a point by some of its labels."""
    return ", ".join(named(k, point.labels[k]) for k in labels if k in point.labels)


def named(label: str, value: Any) -> str:
    """Name a value of a label; a text speaks for itself."""
    return value if isinstance(value, str) else f"{label} {value}"


def indexed(point: Point, pattern: str) -> Iterator[tuple[tuple[int, ...], float]]:
    """Yield the numbers whose names fit a pattern, with the whole numbers in place of each {}."""
    form = re.escape(pattern).replace(r"\{\}", r"(\d+)")
    for name, value in point.numbers.items():
        if match := re.fullmatch(form, name):
            yield tuple(map(int, match.groups())), value


@dataclass(frozen=True, kw_only=True)
class MeanTable(StudySection):
    """Mean and standard deviation over seeds: one row per values of `rows`, one column per value
    of the label `columns`, or per metric of `metrics` if that is "".

    Attributes:
      metrics: name -> the metric.
      baselines: rows of the untrained network and of raw pixels below each row's value.
    """

    metrics: Mapping[str, str]
    rows: Sequence[str]
    columns: str = ""
    baselines: bool = False

    def body(self, points: Sequence[Point], draw: Draw) -> list[str]:
        groups = grouped(points, self.rows)
        heads = values_of(points, self.columns) if self.columns else [None]
        columns = [
            self._column(head, name) for head, name in itertools.product(heads, self.metrics)
        ]
        lines: list[list[str]] = []
        beside: list[list[str]] = []  # baselines of the rows above, shown once if they are equal
        for key, group in groups.items():
            others = [
                [*[""] * (len(key) - 1), f"*{title}*", *cells]
                for kind, title in BASELINES.items()
                if self.baselines
                if not {*(cells := self._cells(group, kind, heads))} <= {"", NOT_RUN}
            ]
            if others != beside:
                lines += beside
            lines.append([*map(str, key), *self._cells(group, "", heads)])
            beside = others
        lines += beside
        places = [self._at(group, head) for group in groups.values() for head in heads]
        seeds = seeds_of(places, self.metrics.values())
        return [table([*self.rows, *columns], lines), f"Mean ± standard deviation; {seeds}."]

    def _column(self, head: Any, name: str) -> str:
        if head is None:
            return name
        label = named(self.columns, head)
        return f"{label}, {name}" if len(self.metrics) > 1 else label

    def _at(self, group: Sequence[Point], head: Any) -> list[Point]:
        return [p for p in group if head is None or p.labels.get(self.columns) == head]

    def _cells(self, group: Sequence[Point], kind: str, heads: Sequence[Any]) -> list[str]:
        cells = []
        for head, metric in itertools.product(heads, self.metrics.values()):
            own = self._at(group, head)
            cells.append(mean(own, kind + metric) if own else "")
        return cells
