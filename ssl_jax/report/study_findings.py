"""Sections of a study's page that state a finding: differences, fits, orders and correlations.

Every statement is computed from the numbers, so that it stays true for other data and lengths.
"""

import itertools
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssl_jax.core.errors import UserError
from ssl_jax.evals import log_linear
from ssl_jax.evals.intervals import MeanInterval, student
from ssl_jax.report import figures
from ssl_jax.report.study_sections import (
    NOT_RUN,
    SEED,
    Draw,
    Point,
    StudySection,
    grouped,
    joined,
    mean,
    missing,
    named,
    scores,
    seeds_of,
    table,
)

INTERVAL = ("95 % interval", "differs from 0")  # columns


def cells(interval: MeanInterval) -> list[str]:
    """Return the cells below `INTERVAL`."""
    outside = interval.excludes_zero
    if outside is None:
        return ["", "unknown"]
    return [f"{interval.low:+.3f} to {interval.high:+.3f}", "yes" if outside else "no"]


def sentences(subject: str, texts: Iterable[tuple[str, str]]) -> list[str]:
    """Return a sentence for each metric, which joins its texts; `texts` are (metric, text)."""
    by_metric: dict[str, list[str]] = {}
    for metric, text in texts:
        by_metric.setdefault(metric, []).append(text.strip())
    return [f"{subject}, {metric}: {'; '.join(own)}." for metric, own in by_metric.items()]


def in_words(interval: MeanInterval) -> str:
    """Return a mean with its interval, and whether that includes 0."""
    ends, differs = cells(interval)
    remark = {"yes": ends, "no": f"{ends}, which includes 0", "unknown": "one value, no interval"}
    return f"{interval.mean:+.3f} ({remark[differs]})"


@dataclass(frozen=True, kw_only=True)
class Contrast(StudySection):
    """Difference of a metric between two values of a label, over all pairs of runs whose other
    labels are equal: the mean, Student's 95 % interval over the pairs, and how often it is
    positive.

    Attributes:
      label: the label; values: the one that is subtracted, and the one that it is subtracted from.
      metrics: name -> the metric; with {} the mean of all numbers that fit.
      each: labels of which each combination of values has a row of its own; () for one row.
    """

    label: str
    values: tuple[Any, Any]
    metrics: Mapping[str, str]
    each: Sequence[str] = ()

    def body(self, points: Sequence[Point], draw: Draw) -> list[str]:
        rows = []
        for key, name, group, metric in self._cases(points):
            own, differences = [missing(group, metric)] * 4, self._differences(group, metric)
            if differences:
                interval, count = student(differences), sum(d > 0 for d in differences)
                positive = f"{count} of {len(differences)}"
                own = [f"{interval.mean:+.3f}", *cells(interval), positive]
            rows.append([*map(str, key), name, *own])
        columns = [*self.each, "metric", self._name, *INTERVAL, "pairs above 0"]
        return [table(columns, rows)] if rows else [f"{NOT_RUN}."]

    def findings(self, points: Sequence[Point]) -> list[str]:
        texts = (
            (name, f"{', '.join(map(named, self.each, key))} {in_words(student(differences))}")
            for key, name, group, metric in self._cases(points)
            if (differences := self._differences(group, metric))
        )
        return sentences(self._name, texts)

    @property
    def _name(self) -> str:
        first, second = (named(self.label, value) for value in self.values)
        return f"{second} - {first}"

    def _cases(self, points: Sequence[Point]) -> Iterator[tuple[tuple, str, list[Point], str]]:
        for key, group in grouped(points, self.each).items():
            for name, metric in self.metrics.items():
                yield key, name, group, metric

    def _differences(self, points: Sequence[Point], metric: str) -> list[float]:
        sides: list[dict[frozenset, float]] = [{}, {}]
        for p in points:
            value, score = p.labels.get(self.label), p.score(metric)
            others = frozenset((k, str(v)) for k, v in p.labels.items() if k != self.label)
            if value in self.values and score is not None:
                sides[self.values.index(value)][others] = score
        first, second = sides
        return [second[key] - first[key] for key in first if key in second]


@dataclass(frozen=True, kw_only=True)
class Fit(StudySection):
    """Table of the line metric = a + b log10(x) of each curve, with b's 95 % interval over the
    seeds that have a score at every x.

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
        for curve, name, group, metric in self._cases(points):
            own, line = [missing(group, metric)] * 4, self._line(group, metric)
            if line:
                own = [f"{line.slope:+.3f}", *cells(line.interval), str(line.groups)]
            rows.append([curve, name, *own])
        columns = [", ".join(self.curve) or "runs", "metric", f"gain per factor 10 of {self.x}"]
        return [table([*columns, *INTERVAL, "seeds"], rows)] if rows else [f"{NOT_RUN}."]

    def findings(self, points: Sequence[Point]) -> list[str]:
        texts = (
            (name, f"{curve} {in_words(line.interval)}")
            for curve, name, group, metric in self._cases(points)
            if (line := self._line(group, metric))
        )
        return sentences(f"Gain per factor 10 of {self.x}", texts)

    def _cases(self, points: Sequence[Point]) -> Iterator[tuple[str, str, list[Point], str]]:
        sized = [p for p in points if self.x in p.labels]
        for group in grouped(sized, self.curve).values():
            for name, metric in self.metrics.items():
                yield joined(group[0], self.curve), name, group, metric

    def _line(self, points: Sequence[Point], metric: str) -> log_linear.LogLinear | None:
        """Fit the line to the seeds that have a score at every size; None if none has."""
        planned, seeds = {p.labels[self.x] for p in points}, {p.labels.get(SEED) for p in points}
        scored = [p for p in points if p.score(metric) is not None]
        for seed in list(seeds):
            if {p.labels[self.x] for p in scored if p.labels.get(SEED) == seed} != planned:
                seeds.remove(seed)
        use = [p for p in scored if p.labels.get(SEED) in seeds]
        if not use:
            return None
        sizes, groups = [p.labels[self.x] for p in use], [p.labels.get(SEED) for p in use]
        try:
            return log_linear.fit(sizes, scores(use, metric), groups)
        except UserError as e:
            raise UserError(f"page: {self.title}: {self.x}: {e}") from None


@dataclass(frozen=True, kw_only=True)
class Ranking(StudySection):
    """Agreement of rankings: the order of the values of `items` by a metric, averaged over seeds,
    for each value of the label `by`; in how many seeds it is the same; and Kendall's tau of each
    two orders.
    """

    metric: str
    items: Sequence[str]
    by: str

    def body(self, points: Sequence[Point], draw: Draw) -> list[str]:
        means = self._means(points)
        if not means:
            return [f"{NOT_RUN}."]
        rows = []
        for key, items in means.items():
            own = [p for p in points if p.labels[self.by] == key]
            seeds = dict.fromkeys(p.labels.get(SEED) for p in own if self._scored(p))
            orders = [
                order(self._items([p for p in own if p.labels.get(SEED) == seed])) for seed in seeds
            ]
            same = orders.count(order(items))
            rows.append([str(key), order(items), f"{same} of {len(orders)}"])
        seeds_text = seeds_of(grouped(points, (self.by, *self.items)).values(), (self.metric,))
        text = f"Orders by the mean of {seeds_text}."
        out = [table([self.by, "from the best to the worst", "seeds with this order"], rows), text]
        pairs = [[f"{a}, {b}", tau(both), str(len(both))] for a, b, both in self._pairs(means)]
        columns = ["orders", "Kendall's tau (1: the same, -1: the reverse)", "items"]
        return [*out, table(columns, pairs)] if pairs else out

    def findings(self, points: Sequence[Point]) -> list[str]:
        means = self._means(points)
        best: dict[str, list[str]] = {}
        for key, items in means.items():
            best.setdefault(order(items).partition(" > ")[0], []).append(str(key))
        findings = [f"{item} ({', '.join(keys)})" for item, keys in best.items()]
        out = [f"The best by {self.by}: {'; '.join(findings)}."] if findings else []
        taus = [tau(both) for _, _, both in self._pairs(means)]
        counts = Counter(taus)
        if taus:
            shares = [f"{value} for {count}" for value, count in sorted(counts.items())]
            out.append(f"Kendall's tau of two orders: {', '.join(shares)} of {len(taus)} pairs.")
        return out

    def _scored(self, point: Point) -> bool:
        return point.score(self.metric) is not None

    def _items(self, points: Sequence[Point]) -> dict[str, float]:
        groups: dict[str, list[Point]] = {}
        for p in filter(self._scored, points):
            groups.setdefault(joined(p, self.items), []).append(p)
        return {item: statistics.mean(scores(own, self.metric)) for item, own in groups.items()}

    def _means(self, points: Sequence[Point]) -> dict[Any, dict[str, float]]:
        groups = grouped(points, (self.by,))
        means = {key: self._items(own) for (key,), own in groups.items()}
        return {key: items for key, items in means.items() if items}

    def _pairs(
        self, means: Mapping[Any, Mapping[str, float]]
    ) -> list[tuple[Any, Any, list[tuple[float, float]]]]:
        return [
            (a, b, [(means[a][item], means[b][item]) for item in means[a] if item in means[b]])
            for a, b in itertools.combinations(means, 2)
        ]


@dataclass(frozen=True, kw_only=True)
class Best(StudySection):
    """Table of the value of the label `x` with the best mean over seeds, for each combination of
    values of `rows`, beside the second best; the finding counts them by the label `by`.
    """

    metric: str
    x: str
    rows: Sequence[str]
    by: str

    def body(self, points: Sequence[Point], draw: Draw) -> list[str]:
        rows = [
            [*map(str, key), *itertools.chain(*places[:2]), *[""] * (4 - 2 * len(places[:2]))]
            for key, places in self._places(points).items()
        ]
        if not rows:
            return [f"{NOT_RUN}."]
        columns = [*self.rows, f"best {self.x}", "score", f"second {self.x}", "score"]
        seeds = seeds_of(grouped(points, (*self.rows, self.x)).values(), (self.metric,))
        return [table(columns, rows), f"Mean ± standard deviation; {seeds}."]

    def findings(self, points: Sequence[Point]) -> list[str]:
        findings: dict[Any, list[str]] = {}
        for key, places in self._places(points).items():
            findings.setdefault(key[self.rows.index(self.by)], []).append(places[0][0])
        return [
            f"Best {self.x}, {named(self.by, value)}: "
            + ", ".join(f"{x} in {count}" for x, count in Counter(best).most_common())
            + f" of {len(best)}."
            for value, best in findings.items()
        ]

    def _places(self, points: Sequence[Point]) -> dict[tuple, list[tuple[str, str]]]:
        """Return each row's values of `x` with their scores as text, the best first."""
        out = {}
        scored = [p for p in points if p.score(self.metric) is not None]
        for key, own in grouped(scored, self.rows).items() if scored else ():
            groups = {x: group for (x,), group in grouped(own, (self.x,)).items()}
            best = sorted(groups, key=lambda x: -statistics.mean(scores(groups[x], self.metric)))
            out[key] = [(str(x), mean(groups[x], self.metric)) for x in best]
        return out


@dataclass(frozen=True, kw_only=True)
class Scatter(StudySection):
    """Figure of one metric over another, one point per run, with their rank correlation in each
    group of `within`.

    Attributes:
      x, y: the metrics; x_name, y_name: titles of the axes.
      within: labels within which ranks are compared, and whose points share a colour.
    """

    x: str
    y: str
    x_name: str
    y_name: str
    within: Sequence[str]

    def body(self, points: Sequence[Point], draw: Draw) -> list[str]:
        groups = self._groups(points)
        if not groups:
            return [f"{NOT_RUN}."]
        rows = [[name, tau(pairs), str(len(pairs))] for name, pairs in groups.items()]
        columns = [", ".join(self.within), "Kendall's tau", "runs"]
        figure = figures.scatter(groups, self.x_name, self.y_name)
        return [draw(self.title, figure), table(columns, rows)]

    def findings(self, points: Sequence[Point]) -> list[str]:
        findings = [f"{name} {tau(pairs)}" for name, pairs in self._groups(points).items()]
        text = f"Kendall's tau of {self.x_name} and {self.y_name}: {', '.join(findings)}."
        return [text] if findings else []

    def _groups(self, points: Sequence[Point]) -> dict[str, list[tuple[float, float]]]:
        groups: dict[str, list[tuple[float, float]]] = {}
        for p in points:
            x, y = p.score(self.x), p.score(self.y)
            if x is not None and y is not None:
                groups.setdefault(joined(p, self.within), []).append((x, y))
        return groups


def order(means: Mapping[str, float]) -> str:
    """Write the names from the highest mean to the lowest."""
    values = sorted(set(means.values()), reverse=True)
    return " > ".join(" = ".join(k for k, v in means.items() if v == value) for value in values)


def tau(pairs: Sequence[tuple[float, float]]) -> str:
    """Format Kendall's tau-b of pairs of values; "unknown" for fewer than three."""
    from scipy.stats import kendalltau  # takes a second to import

    if len(pairs) < 3:
        return "unknown"
    value = float(kendalltau(*zip(*pairs, strict=True)).statistic)
    return f"{value:+.2f}" if value == value else "unknown"
