"""Maps of features as SVG: one point per image, one colour and shape per class."""

from collections.abc import Sequence

import numpy as np

from ssl_jax.report.markup import Markup, tag

SIDE, EDGE = 400, 12
COLOURS, SHAPES = 8, ("circle", "triangle", "square", "diamond")
MOST = 24  # classes that get a marker of their own


def shown_classes(labels: np.ndarray) -> list[int]:
    """Return the classes that get a marker: the most frequent ones, in ascending order."""
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    return sorted(int(label) for label in classes[np.argsort(-counts, kind="stable")[:MOST]])


def sign(place: int) -> str:
    """Return the CSS class of the marker at this position of the legend."""
    return f"c{place % COLOURS}"


def marker(place: int, x: float, y: float, size: float) -> str:
    """Return the SVG path of the marker at this position of the legend, centred on (x, y)."""
    shape = SHAPES[(place // COLOURS + place) % len(SHAPES)]
    s = round(size, 2)
    if shape == "circle":
        half = f"a{s} {s} 0 1 0"
        return f"M{x - s:.1f} {y:.1f}{half} {2 * s:.2f} 0{half} {-2 * s:.2f} 0z"
    if shape == "triangle":
        return f"M{x:.1f} {y - s * 1.2:.1f}l{s * 1.1:.1f} {s * 2:.1f}h{-s * 2.2:.1f}z"
    if shape == "square":
        return f"M{x - s * 0.9:.1f} {y - s * 0.9:.1f}h{s * 1.8:.1f}v{s * 1.8:.1f}h{-s * 1.8:.1f}z"
    d = f"{s * 1.3:.1f}"
    return f"M{x:.1f} {y - s * 1.3:.1f}l{d} {d}l-{d} {d}l-{d} -{d}z"


def scatter(title: str, places: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Markup:
    """Draw positions (N, 2) in [0, 1] of examples with classes (N,), -1 for unlabelled ones."""
    classes = shown_classes(labels)
    at = EDGE + places * (SIDE - 2 * EDGE)
    size = 3.2 if len(places) <= 500 else 2.4
    rest = ~np.isin(labels, classes)
    parts = []
    if rest.any():
        parts.append(tag("path", d=_paths(0, at[rest], size * 0.8), class_="other"))
    for place, label in enumerate(classes):
        path = tag("path", d=_paths(place, at[labels == label], size))
        parts.append(tag("g", tag("title", names[label]), path, class_=sign(place)))
    description = f"Map of {title}: {len(places)} images, {len(classes)} classes"
    svg = tag("svg", *parts, viewBox=f"0 0 {SIDE} {SIDE}", role="img", aria_label=description)
    return tag("figure", tag("figcaption", tag("strong", title)), svg, class_="map")


def legend(labels: np.ndarray, names: Sequence[str]) -> Markup:
    """List the markers of the classes; nothing without labels."""
    classes = shown_classes(labels)
    items = []
    for place, label in enumerate(classes):
        path = tag("path", d=marker(place, 7, 7, 4.2))
        svg = tag("svg", path, viewBox="0 0 14 14", class_=sign(place), aria_hidden="true")
        items.append(tag("li", svg, names[label]))
    if items and (~np.isin(labels, classes)).any():
        path = tag("path", d=marker(0, 7, 7, 3.4), class_="other")
        items.append(tag("li", tag("svg", path, viewBox="0 0 14 14", aria_hidden="true"), "other"))
    return tag("ul", *items, class_="legend") if items else Markup("")


def _paths(place: int, points: np.ndarray, size: float) -> str:
    return "".join(marker(place, float(x), float(y), size) for x, y in points)
