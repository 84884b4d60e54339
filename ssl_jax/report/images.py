"""Pictures inside the page, as data URIs in rows and columns; a sign marks right and wrong."""

import base64
from collections.abc import Sequence

import cv2
import numpy as np

from ssl_jax.data.decode import viewable
from ssl_jax.report.look import Cluster, Examples, Neighbours, labels_of, reduced
from ssl_jax.report.markup import Markup, tag
from ssl_jax.report.patches import Grid

COARSE = 64  # images up to this side are shown with their pixels as squares
THUMB, PICTURE = 64, 128  # sides of images in large grids, and in small ones
PER_ROW = 12  # images per row of a contact sheet
RIGHT, WRONG = "✓", "✗"


def data_uri(image: np.ndarray) -> str:
    """Encode an image (h, w, C) uint8: small images losslessly as PNG, others as WebP; of more
    channels than a picture can show, the first ones.
    """
    image = viewable(image)
    if image.shape[-1] == 3:
        image = image[..., ::-1]
    kind, options = (
        ("png", [cv2.IMWRITE_PNG_COMPRESSION, 9])
        if max(image.shape[:2]) <= COARSE // 2
        else ("webp", [cv2.IMWRITE_WEBP_QUALITY, 80])
    )
    _, data = cv2.imencode(f".{kind}", np.ascontiguousarray(image), options)
    return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}"


def picture(image: np.ndarray, alt: str, side: int = PICTURE) -> Markup:
    """Return an `<img>` of at most `side` pixels per side."""
    image = reduced(image, side)
    height, width = image.shape[:2]
    kind = "coarse" if width <= COARSE else None
    return tag("img", src=data_uri(image), alt=alt, width=width, height=height, class_=kind)


def cell(
    image: np.ndarray, alt: str, side: int, right: bool | None = None, text: str = ""
) -> Markup:
    """Return an image with a caption below; sign, colour and border tell right from wrong."""
    kind = "cell" if right is None else "cell right" if right else "cell wrong"
    mark = "" if right is None else RIGHT if right else WRONG
    caption = f"{mark} {text}".strip()
    captions = [tag("span", caption, title=text)] if caption else []
    return tag("div", picture(image, alt, side), *captions, class_=kind)


def rows_of(columns: Sequence[str], rows: Sequence[Sequence[Markup]], kind: str = "") -> Markup:
    """Lay out cells in rows and columns, below the names of the columns."""
    heads = [tag("div", name, class_="head") for name in columns]
    cells = [each for row in rows for each in row]
    count = len(rows[0])
    return tag("div", *heads, *cells, class_=f"cells {kind}".strip(), style=f"--columns:{count}")


def neighbours(
    neighbours: Neighbours, train: Examples, test: Examples, names: Sequence[str]
) -> Markup:
    """Draw one row per query: the evaluation image and its nearest training images."""
    rows = []
    for query, near in zip(neighbours.queries, neighbours.nearest, strict=True):
        label = int(test.labels[query])
        name = labels_of(names, label)
        alt = f"evaluation image {name}".strip()
        row = [cell(test.images[query], alt, THUMB, text=name)]
        for place, index in enumerate(near, 1):
            other = int(train.labels[index])
            right = other == label if min(label, other) >= 0 else None
            text = labels_of(names, other)
            verdict = "" if right is None else ", the same class" if right else ", another class"
            alt = f"neighbour {place} {text}{verdict}"
            row.append(cell(train.images[index], alt, THUMB, right, text))
        rows.append(row)
    heads = ["query"] + [str(i) for i in range(1, len(rows[0]))]
    return rows_of(heads, rows, "queries")


def sheet(images: np.ndarray, alt: str) -> Markup:
    """Join images (N, h, w, c) into one picture, `PER_ROW` per row."""
    small = np.stack(
        [reduced(image, COARSE // 2 if len(image) > COARSE else 64) for image in images]
    )
    count, height, width, channels = small.shape
    edge = max(1, width // 16)
    rows = -(-count // PER_ROW)
    whole = np.full(
        (rows * (height + edge) - edge, PER_ROW * (width + edge) - edge, channels), 127, np.uint8
    )
    for i, image in enumerate(small):
        y, x = (i // PER_ROW) * (height + edge), (i % PER_ROW) * (width + edge)
        whole[y : y + height, x : x + width] = image
    size = {"width": whole.shape[1], "height": whole.shape[0]}
    kind = "sheet coarse" if width <= COARSE // 2 else "sheet"
    return tag("img", src=data_uri(whole), alt=alt, class_=kind, **size)


def clusters(clusters: Sequence[Cluster], train: Examples, names: Sequence[str]) -> Markup:
    """Draw one contact sheet per cluster."""
    figures = []
    for number, cluster in enumerate((c for c in clusters if len(c.rows)), 1):
        description = f"{cluster.size} images"
        name = labels_of(names, cluster.label)
        if name:
            description += f", {cluster.purity:.0%} are of class {name}"
        alt = f"{len(cluster.rows)} images of cluster {number}: {description}"
        caption = tag("figcaption", tag("strong", f"Cluster {number}"), f" {description}")
        figures.append(tag("figure", caption, sheet(train.images[cluster.rows], alt)))
    return tag("div", *figures, class_="sheets")


def grid(title: str, grid: Grid) -> Markup:
    """Draw a picture, in two blocks side by side where it has few columns."""
    rows: list[list[Markup]] = []
    few = len(grid.images[0]) <= 4
    for i, images in enumerate(grid.images):
        row = []
        for j, image in enumerate(images):
            right, text = None, ""
            if grid.predicted is not None and grid.predicted[i, j] >= 0:
                text = labels_of(grid.answers, int(grid.predicted[i, j]))
                if grid.truth is not None:
                    right = bool(grid.predicted[i, j] == grid.truth[i, j])
            name = grid.columns[j] if grid.columns else f"image {j + 1}"
            verdict = "" if right is None else ", right" if right else ", wrong"
            alt = f"{title}, row {i + 1}, {name}{verdict}"
            row.append(cell(image, alt, PICTURE if few else THUMB, right, text))
        rows.append(row)
    half = -(-len(rows) // 2)
    blocks = [rows[:half], rows[half:]] if few and len(rows) > 3 else [rows]
    parts = [rows_of(grid.columns, block, "few" if few else "") for block in blocks]
    return tag("div", *parts, class_="blocks")
