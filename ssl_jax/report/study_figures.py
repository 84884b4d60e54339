"""Sections of a study's page that are figures."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from ssl_jax.report import figures
from ssl_jax.report.study_sections import NOT_RUN, Draw, Point, StudySection, indexed, joined


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
            places = indexed(point, names[0])
            return [(float(at[0]), value) for at, value in places if isfinite(value)]
        at = point.labels.get(self.x)
        values = [value for name in names if (value := point.score(name)) is not None]
        if at is None or not values or (self.log and at <= 0):
            return []
        return [(float(at), values[0])]


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
            for (i, j), value in indexed(p, self.metric):
                for place in {(i, j), (j, i)} if self.symmetric else {(i, j)}:
                    cells.setdefault(place, []).extend([value] if isfinite(value) else [])
        means = {place: statistics.mean(values) for place, values in cells.items() if values}
        if not means:
            return [f"{NOT_RUN}."]
        if self.symmetric:
            means |= {(i, i): 1.0 for i in {k for pair in means for k in pair}}
        low, high = (end(len(values) for values in cells.values() if values) for end in (min, max))
        count = str(high) if low == high else f"{low} to {high}"
        figure = draw(self.title, figures.heat(means, self.row, self.column))
        return [figure, f"Mean of {count} seed{'' if count == '1' else 's'}."]
