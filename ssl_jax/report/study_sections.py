"""Sections of a study's page: tables, figures and statements that follow from the numbers.

A study's file lists them in its `get_page`. Each selects points by their labels, and writes "not
run" where a planned run has no number.
"""

import itertools
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ssl_jax.core.errors import UserError, suggest
from ssl_jax.evals import log_linear
from ssl_jax.report import figures
from ssl_jax.report.markup import Markup

NOT_RUN = "not run"
BASELINES = {"": "", "untrained/": "untrained", "pixels/": "raw pixels"}  # by their prefix
PROTOCOL = "protocol"  # the label of points from records
SEED = "seed"  # the label over which numbers are averaged


@dataclass(frozen=True)
class Point:
    """Numbers of one measurement of a planned run; none if it was not run.

    Attributes:
      labels: the run's place in the study, and the settings of the protocol.
      numbers: name -> number, "eval/knn_top1", "untrained/eval/knn_top1", "train/accuracy".
    """

    labels: Mapping[str, Any]
    numbers: Mapping[str, float] = field(default_factory=dict)


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


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def mean(values: Sequence[float]) -> str:
    """Format the mean of some seeds with their standard deviation."""
    if not values:
        return NOT_RUN
    spread = f" ± {statistics.stdev(values):.3f}" if values[1:] else ""
    return f"{statistics.mean(values):.3f}{spread}"


def values_of(points: Sequence[Point], label: str) -> list[Any]:
    """List the values of a label in order of appearance.

    Raises:
      UserError: no point has it.
    """
    values = dict.fromkeys(p.labels[label] for p in points if label in p.labels)
    if not values:
        names = {name for p in points for name in p.labels}
        raise UserError(f"page: no run has the label {label!r}; {suggest(label, names)}")
    return list(values)


def seeds_of(points: Sequence[Point], metric: str) -> str:
    """State how many seeds have this number, and that one is too few to compare."""
    count = len({p.labels.get(SEED) for p in points if metric in p.numbers})
    if not count:
        return NOT_RUN
    return f"{count} seeds" if count > 1 else "1 seed: no difference is told from chance"


def joined(point: Point, labels: Sequence[str]) -> str:
    """Name a point by some of its labels."""
    return ", ".join(
        str(point.labels[k]) if isinstance(point.labels[k], str) else f"{k} {point.labels[k]}"
        for k in labels
        if k in point.labels
    )


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
        groups: dict[tuple, list[Point]] = {}
        for p in points:
            if all(name in p.labels for name in self.rows):
                groups.setdefault(tuple(p.labels[name] for name in self.rows), []).append(p)
        heads = values_of(points, self.columns) if self.columns else [None]
        columns = [
            self._column(head, name) for head, name in itertools.product(heads, self.metrics)
        ]
        lines: list[list[str]] = []
        beside: list[list[str]] = []  # baselines of the rows above, shown once if they are equal
        for key, group in groups.items():
            cells = {kind: self._cells(group, kind, heads) for kind in BASELINES}
            others = [
                [*[""] * (len(key) - 1), f"*{BASELINES[kind]}*", *cells[kind]]
                for kind in ("untrained/", "pixels/")
                if self.baselines and not {*cells[kind]} <= {"", NOT_RUN}
            ]
            if others != beside:
                lines += beside
            lines.append([*map(str, key), *cells[""]])
            beside = others
        lines += beside
        metric = next(iter(self.metrics.values()))
        return [
            table([*self.rows, *columns], lines),
            f"Mean ± deviation; {seeds_of(points, metric)}.",
        ]

    def _column(self, head: Any, name: str) -> str:
        if head is None:
            return name
        label = head if isinstance(head, str) else f"{self.columns} {head}"
        return f"{label}, {name}" if len(self.metrics) > 1 else label

    def _cells(self, group: Sequence[Point], kind: str, heads: Sequence[Any]) -> list[str]:
        cells = []
        for head, metric in itertools.product(heads, self.metrics.values()):
            own = [p for p in group if head is None or p.labels.get(self.columns) == head]
            name = kind + metric
            values = [p.numbers[name] for p in own if name in p.numbers]
            cells.append(mean(values) if own else "")
        return cells


@dataclass(frozen=True, kw_only=True)
class Lines(StudySection):
    """Figure of a metric over a label, one curve per values of `curve`.

    Attributes:
      metric: its name; with {} for whole numbers, the first of which is the position: then `x` is
        the title of the axis only. Or several names, of which each point's first one is shown.
      name: title of the other axis.
      x: a label with numbers.
      curve: labels that name a curve.
      log: whether the axis is logarithmic.
    """

    metric: str | Sequence[str]
    name: str
    x: str
    curve: Sequence[str] = ()
    log: bool = False

    def body(self, points: Sequence[Point], draw: Draw) -> list[str]:
        curves: dict[str, list[tuple[float, float]]] = {}
        for p in points:
            placed = self._placed(p)
            if placed:
                curves.setdefault(joined(p, self.curve), []).extend(placed)
        if not curves:
            return [f"{NOT_RUN}."]
        return [draw(self.title, figures.lines(curves, self.x, self.name, log=self.log))]

    def _placed(self, point: Point) -> list[tuple[float, float]]:
        names = (self.metric,) if isinstance(self.metric, str) else self.metric
        if "{}" in names[0]:
            return [(float(at[0]), value) for at, value in indexed(point, names[0])]
        at = point.labels.get(self.x)
        values = [point.numbers[name] for name in names if name in point.numbers]
        if at is None or not values or (self.log and at <= 0):
            return []
        return [(float(at), values[0])]


@dataclass(frozen=True, kw_only=True)
class Scatter(StudySection):
    """Figure of one metric over another, one point per run, with their rank correlation in each
    group of `within`.

    Attributes:
      x, y: the metrics; x_name, y_name: titles of the axes.
      colour: labels that share a colour.
      within: labels within which ranks are compared.
    """

    x: str
    y: str
    x_name: str
    y_name: str
    colour: Sequence[str]
    within: Sequence[str]

    def body(self, points: Sequence[Point], draw: Draw) -> list[str]:
        curves: dict[str, list[tuple[float, float]]] = {}
        groups: dict[str, list[tuple[float, float]]] = {}
        for p in points:
            if self.x in p.numbers and self.y in p.numbers:
                pair = p.numbers[self.x], p.numbers[self.y]
                curves.setdefault(joined(p, self.colour), []).append(pair)
                groups.setdefault(joined(p, self.within), []).append(pair)
        if not curves:
            return [f"{NOT_RUN}."]
        rows = [[name, tau(pairs), str(len(pairs))] for name, pairs in groups.items()]
        columns = [", ".join(self.within), "Kendall's tau", "runs"]
        figure = figures.scatter(curves, self.x_name, self.y_name)
        return [draw(self.title, figure), table(columns, rows)]


@dataclass(frozen=True, kw_only=True)
class Heat(StudySection):
    """Heat map of numbers with two whole numbers in their names, averaged over seeds.

    Attributes:
      metric: name with {} twice: row and column.
      symmetric: whether only one of (i, j) and (j, i) was measured, and (i, i) is 1.
    """

    metric: str
    row: str
    column: str
    symmetric: bool = False

    def body(self, points: Sequence[Point], draw: Draw) -> list[str]:
        cells: dict[tuple[int, int], list[float]] = {}
        for p in points:
            for at, value in indexed(p, self.metric):
                i, j = at
                places = {(i, j), (j, i)} if self.symmetric else {(i, j)}
                for place in places:
                    cells.setdefault(place, []).append(value)
        if not cells:
            return [f"{NOT_RUN}."]
        if self.symmetric:
            cells |= {(i, i): [1.0] for i in {k for pair in cells for k in pair}}
        means = {place: statistics.mean(values) for place, values in sorted(cells.items())}
        count = max(map(len, cells.values()))
        figure = draw(self.title, figures.heat(means, self.row, self.column))
        return [figure, f"Mean of {count} seed{'s' if count > 1 else ''}."]


@dataclass(frozen=True, kw_only=True)
class Fit(StudySection):
    """Table of the line metric = a + b log10(x) of each curve, with b's 95 % interval over seeds.

    Attributes:
      metrics: name -> the metric.
      x: a label with positive numbers.
      curve: labels that name a curve.
    """

    metrics: Mapping[str, str]
    x: str
    curve: Sequence[str] = ()

    def body(self, points: Sequence[Point], draw: Draw) -> list[str]:
        rows = []
        groups: dict[str, list[Point]] = {}
        for p in points:
            if self.x in p.labels:
                groups.setdefault(joined(p, self.curve), []).append(p)
        for (curve, group), (name, metric) in itertools.product(
            groups.items(), self.metrics.items()
        ):
            has = [p for p in group if metric in p.numbers]
            sizes, seeds = ([p.labels.get(k, 0) for p in has] for k in (self.x, SEED))
            whole = [s for s in dict.fromkeys(seeds) if seeds.count(s) > 1]
            use = [i for i, seed in enumerate(seeds) if seed in whole]
            if not use:
                rows.append([curve, name, *[NOT_RUN] * 4])
                continue
            numbers = [has[i].numbers[metric] for i in use]
            line = log_linear.fit([sizes[i] for i in use], numbers, [seeds[i] for i in use])
            interval, verdict = "one seed", "unknown"
            if line.groups > 1:
                interval = f"{line.low:.3f} to {line.high:.3f}"
                verdict = "no" if line.low <= 0 <= line.high else "yes"
            own = [f"{line.slope:+.3f}", interval, str(line.groups), verdict]
            rows.append([curve, name, *own])
        columns = [", ".join(self.curve) or "runs", "metric", f"gain per factor 10 of {self.x}"]
        return [table([*columns, "95 % interval", "seeds", "told from 0"], rows)]


@dataclass(frozen=True, kw_only=True)
class Ranking(StudySection):
    """Agreement of rankings: the order of the values of `items` by a metric, averaged over seeds,
    for each value of the label `by`, and Kendall's tau of each two orders.
    """

    metric: str
    items: Sequence[str]
    by: str

    def body(self, points: Sequence[Point], draw: Draw) -> list[str]:
        scores: dict[Any, dict[str, list[float]]] = {}
        for p in points:
            if self.metric in p.numbers:
                own = scores.setdefault(p.labels[self.by], {})
                own.setdefault(joined(p, self.items), []).append(p.numbers[self.metric])
        if not scores:
            return [f"{NOT_RUN}."]
        means = {
            key: {item: statistics.mean(values) for item, values in own.items()}
            for key, own in scores.items()
        }
        rows = [
            [str(key), " > ".join(sorted(own, key=lambda item: -own[item]))]
            for key, own in means.items()
        ]
        pairs = []
        for first, second in itertools.combinations(means, 2):
            both = [i for i in means[first] if i in means[second]]
            pairs.append(
                [
                    f"{first}, {second}",
                    tau([(means[first][i], means[second][i]) for i in both]),
                    str(len(both)),
                ]
            )
        seeds = seeds_of(points, self.metric)
        text = f"Tau is 1 for the same order, -1 for the reverse. Orders by the mean of {seeds}."
        out = [table([self.by, "from the best to the worst"], rows), text]
        return [*out, table(["orders", "Kendall's tau", "items"], pairs)] if pairs else out


def tau(pairs: Sequence[tuple[float, float]]) -> str:
    """Format Kendall's tau-b of pairs of values; "unknown" for fewer than three."""
    from scipy.stats import kendalltau  # takes a second to import

    if len(pairs) < 3:
        return "unknown"
    value = float(kendalltau(*zip(*pairs, strict=True)).statistic)
    return f"{value:+.2f}" if value == value else "unknown"
