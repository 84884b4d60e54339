"""Figures of studies as SVG files: lines with a point per seed, points, and heat maps.

A file carries its own colours and a white background, so that it looks the same in every page.
"""

import statistics
from collections.abc import Mapping, Sequence

from ssl_jax.report.curves import Axis, number
from ssl_jax.report.markup import Markup, tag

WIDTH, HEIGHT = 460, 280  # of a figure; the key is at its right
KEY, CHARACTER = 130, 7.2  # least width of the key, and that of a character in it
LEFT, TOP, BOTTOM = 56, 14, 42
CELL, MARGIN = 44, 56  # of a heat map
INK, SOFT, GRID = "#1b1f24", "#57606a", "#e4e7ea"
# Okabe and Ito's colours, as in page.css.
COLOURS = ("#0072b2", "#d55e00", "#009371", "#b8588f", "#b97a00", "#3a9bd6", "#1b1f24", "#8a8200")
Points = Sequence[tuple[float, float]]


def lines(curves: Mapping[str, Points], x_title: str, y_title: str, *, log: bool = False) -> Markup:
    """Draw one line per curve, through the mean of the values at each x, and all values as dots.

    Args:
      curves: name -> its points (x, value); at least one point in total.
      log: logarithmic x axis, for positive x.
    """
    x, y = _axes(curves, log)
    parts = _frame(x, y, x_title, y_title)
    for colour, points in zip(_colours(curves), curves.values(), strict=True):
        parts += _dots(points, x, y, colour)
        groups: dict[float, list[float]] = {}
        for at, value in sorted(points):
            groups.setdefault(at, []).append(value)
        places = [(x.place(at), y.place(statistics.mean(group))) for at, group in groups.items()]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        parts.append(tag("polyline", points=path, fill="none", stroke=colour, stroke_width=2))
    return _figure(parts, _key(curves), _width(curves), HEIGHT, f"{y_title} by {x_title}")


def scatter(curves: Mapping[str, Points], x_title: str, y_title: str) -> Markup:
    """Draw the points (x, y) of each group in a colour; at least one point in total."""
    x, y = _axes(curves, log=False)
    parts = _frame(x, y, x_title, y_title)
    for colour, points in zip(_colours(curves), curves.values(), strict=True):
        parts += _dots(points, x, y, colour, radius=4.0)
    return _figure(parts, _key(curves), _width(curves), HEIGHT, f"{y_title} by {x_title}")


def heat(cells: Mapping[tuple[int, int], float], row_title: str, column_title: str) -> Markup:
    """Draw values from 0 (white) to 1 (dark) at (row, column), with each value in its cell."""
    rows, columns = ({key[side] for key in cells} for side in (0, 1))
    parts: list[Markup] = []
    for (row, column), value in cells.items():
        left, top = MARGIN + column * CELL, TOP + row * CELL
        shade = round(min(max(value, 0.0), 1.0), 3)
        box = {"x": left, "y": top, "width": CELL - 2, "height": CELL - 2}
        parts.append(tag("rect", **box, fill=COLOURS[0], fill_opacity=shade))
        ink = "#ffffff" if shade > 0.55 else INK
        middle, base = left + CELL / 2 - 1, top + CELL / 2 + 3
        parts.append(_text(f"{value:.2f}", middle, base, fill=ink))
    bottom = TOP + (max(rows) + 1) * CELL
    for column in sorted(columns):
        parts.append(_text(str(column), MARGIN + column * CELL + CELL / 2 - 1, bottom + 12))
    for row in sorted(rows):
        parts.append(_text(str(row), MARGIN - 10, TOP + row * CELL + CELL / 2 + 3))
    width = MARGIN + (max(columns) + 1) * CELL + 10
    parts.append(_text(column_title, (MARGIN + width) / 2, bottom + 30, fill=SOFT))
    parts.append(_upright(row_title, 16, (TOP + bottom) / 2))
    return _figure(parts, [], max(width, 240), bottom + BOTTOM, f"{row_title} by {column_title}")


def _axes(curves: Mapping[str, Points], log: bool) -> tuple[Axis, Axis]:
    points = [point for curve in curves.values() for point in curve]
    ends = []
    for side in (0, 1):
        low, high = min(p[side] for p in points), max(p[side] for p in points)
        margin = (high - low) * 0.07 or abs(high) * 0.1 or 1.0
        ends.append((low / 1.2, high * 1.2) if log and not side else (low - margin, high + margin))
    return (
        Axis(*ends[0], LEFT, WIDTH - 10, log),
        Axis(*ends[1], HEIGHT - BOTTOM, TOP),
    )


def _frame(x: Axis, y: Axis, x_title: str, y_title: str) -> list[Markup]:
    """Draw the grid, the numbers at the axes and their titles."""
    parts = []
    for value in y.ticks():
        at = round(y.place(value), 1)
        parts.append(tag("line", x1=LEFT, x2=WIDTH - 10, y1=at, y2=at, stroke=GRID))
        parts.append(_text(number(value), LEFT - 6, at + 3.5, text_anchor="end"))
    for value in x.ticks():
        parts.append(_text(number(value), round(x.place(value), 1), HEIGHT - BOTTOM + 15))
    base = HEIGHT - BOTTOM
    parts.append(tag("line", x1=LEFT, x2=WIDTH - 10, y1=base, y2=base, stroke=SOFT))
    scale = f"{x_title} (logarithmic)" if x.log else x_title
    parts.append(_text(scale, (LEFT + WIDTH - 10) / 2, HEIGHT - 8, fill=SOFT))
    parts.append(_upright(y_title, 14, (TOP + base) / 2))
    return parts


def _dots(points: Points, x: Axis, y: Axis, colour: str, radius: float = 2.5) -> list[Markup]:
    return [
        tag(
            "circle",
            cx=round(x.place(at), 1),
            cy=round(y.place(value), 1),
            r=radius,
            fill=colour,
            fill_opacity=0.7,
        )
        for at, value in points
    ]


def _colours(curves: Mapping[str, Points]) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(len(curves))]


def _width(curves: Mapping[str, Points]) -> float:
    """Return the width of a figure with its key."""
    return WIDTH + max(KEY, 20 + CHARACTER * max(map(len, curves), default=0))


def _key(curves: Mapping[str, Points]) -> list[Markup]:
    parts = []
    for i, (name, colour) in enumerate(zip(curves, _colours(curves), strict=True)):
        at = TOP + 14 + 18 * i
        parts.append(tag("circle", cx=WIDTH + 6, cy=at - 4, r=4, fill=colour))
        parts.append(_text(name, WIDTH + 16, at, text_anchor="start"))
    return parts if list(curves) != [""] else []


def _text(text: str, x: float, y: float, **options: object) -> Markup:
    return tag("text", text, **({"x": x, "y": y, "text_anchor": "middle", "fill": INK} | options))


def _upright(text: str, x: float, y: float) -> Markup:
    return _text(text, x, y, fill=SOFT, transform=f"rotate(-90 {x} {y:.0f})")


def _figure(
    parts: Sequence[Markup], key: Sequence[Markup], width: float, height: float, label: str
) -> Markup:
    return tag(
        "svg",
        tag("rect", width=width, height=height, fill="#ffffff"),
        *parts,
        *key,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        font_family="system-ui, sans-serif",
        font_size=11,
        role="img",
        aria_label=label,
    )
