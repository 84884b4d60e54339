"""Curves as SVG: axes with round numbers, several runs, baselines as dashed lines."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ssl_jax.report.markup import Markup, tag

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 8, 26
MOST = 400  # points drawn per curve; longer curves are drawn by every n-th point
Points = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Axis:
    """Map from values to coordinates.

    Attributes:
      low, high: values at the ends of the axis.
      start, stop: coordinates of the ends.
      log: logarithmic, so that equal distances are equal ratios.
    """

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def place(self, value: float) -> float:
        """Return the coordinate of a value."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = map(math.log10, (low, high, value))
        return self.start + (value - low) / (high - low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Return three to seven round numbers; powers of ten if a logarithmic axis spans enough."""
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            every = max(1, math.ceil((last - first + 1) / 6))
            tens = [10.0**e for e in range(first, last + 1, every)]
            if len(tens) > 1:
                return tens
        step = nice((self.high - self.low) / 4)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]


def nice(step: float) -> float:
    """Round `step` to 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return power * min((1, 2, 5, 10), key=lambda n: abs(math.log(step / power / n)))


def y_axis(values: Sequence[float]) -> Axis:
    """Return an axis over these values with a margin, logarithmic if a few dwarf the others."""
    low, high = min(values), max(values)
    middle = sorted(values)[len(values) // 2]
    start, stop = HEIGHT - BOTTOM, TOP
    if low > 0 and high > 50 * middle:
        return Axis(low / 1.2, high * 1.2, start, stop, log=True)
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return Axis(low - margin, high + margin, start, stop)


def thinned(points: Points) -> Points:
    """Keep every n-th point and the last: at most `MOST` + 1 points."""
    every = math.ceil(len(points) / MOST)
    selected = list(points[::every])
    if selected and selected[-1] != points[-1]:
        selected.append(points[-1])
    return selected


def chart(
    title: str,
    curves: Mapping[int, Points],
    baselines: Mapping[tuple[int, str], float],
    note: str = "",
) -> Markup:
    """Draw the chart of one metric.

    Args:
      title: name of the metric.
      curves: number of a run -> its (step, value) points; at least one point in total.
      baselines: (number of a run, kind) -> value, drawn as a horizontal line.
      note: one sentence below the chart.
    """
    lines = {run: thinned(points) for run, points in curves.items()}
    everything = [point for points in lines.values() for point in points]
    y = y_axis([value for _, value in everything] + list(baselines.values()))
    last = max(step for step, _ in everything)
    x = Axis(0, max(last, 1), LEFT, WIDTH - RIGHT)
    parts = [*_grid(x, y)]
    for (run, kind), value in baselines.items():
        at = f"{y.place(value):.1f}"
        line = tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_=f"base {kind} c{run}")
        parts.append(line)
    for run, points in lines.items():
        places = [f"{x.place(step):.1f},{y.place(value):.1f}" for step, value in points]
        attributes = {
            "data_run": run,
            "data_steps": " ".join(str(step) for step, _ in points),
            "data_values": " ".join(f"{value:.4g}" for _, value in points),
        }
        parts.append(tag("polyline", points=" ".join(places), class_=f"curve c{run}", **attributes))
        if len(points) < 20:
            parts += [
                tag("circle", cx=p.split(",")[0], cy=p.split(",")[1], r=2.5, class_=f"dot c{run}")
                for p in places
            ]
    parts.append(tag("line", x1=0, x2=0, y1=TOP, y2=HEIGHT - BOTTOM, class_="cursor"))
    ends = [f"{points[-1][1]:.4g} at step {points[-1][0]}" for points in lines.values()]
    svg = tag(
        "svg",
        *parts,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=f"{title}, ending at {'; '.join(ends)}",
        data_left=LEFT,
        data_right=WIDTH - RIGHT,
        data_last=x.high,
    )
    scale = " (logarithmic)" if y.log else ""
    caption = tag("figcaption", tag("strong", title), scale, " ", tag("output"))
    paragraphs = [tag("p", note, class_="note")] if note else []
    return tag("figure", caption, svg, *paragraphs, class_="chart")


def legend(runs: Sequence[str], baselines: Mapping[str, str]) -> Markup:
    """List the runs and the kinds of baselines, kind -> name; nothing for a single line."""

    def key(kind: str, colour: str) -> Markup:
        line = tag("line", x1=0, x2=28, y1=7, y2=7, class_=f"{kind} {colour}")
        return tag("svg", line, viewBox="0 0 28 14", class_="key", aria_hidden="true")

    items = [tag("li", key("base", f"c{i}"), name) for i, name in enumerate(runs)]
    colour = "c0" if len(runs) == 1 else "c6"
    items += [tag("li", key(f"base {kind}", colour), name) for kind, name in baselines.items()]
    return tag("ul", *items, class_="legend") if len(items) > 1 else Markup("")


def _grid(x: Axis, y: Axis) -> list[Markup]:
    parts = []
    for value in y.ticks():
        at = y.place(value)
        parts.append(
            tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=f"{at:.1f}", y2=f"{at:.1f}", class_="grid")
        )
        parts.append(tag("text", number(value), x=LEFT - 6, y=f"{at + 3.5:.1f}", text_anchor="end"))
    for value in x.ticks():
        at = x.place(value)
        # The last label must stay inside the picture.
        anchor = "end" if at > WIDTH - RIGHT - 12 else "middle"
        parts.append(tag("text", number(value), x=f"{at:.1f}", y=HEIGHT - 10, text_anchor=anchor))
    parts.append(
        tag(
            "line", x1=LEFT, x2=WIDTH - RIGHT, y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM, class_="axis"
        )
    )
    return parts


def number(value: float) -> str:
    """Format a number briefly: 0.25, 1,500, 20k, 1e-5."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        return f"{value / 1e6:g}M" if abs(value) >= 1e6 else f"{value / 1e3:g}k"
    if abs(value) < 1e-3:  # longer labels would leave the picture
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:,.6g}"
