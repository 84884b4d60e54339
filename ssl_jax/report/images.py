"""Pictures inside the page: as data URIs, in rows and columns, right and wrong marked by a sign."""

import base64
from collections.abc import Sequence

import cv2
import numpy as np

from ssl_jax.data.decode import viewable
from ssl_jax.report.look import Cluster, Examples, Neighbours, labels_of, reduced
from ssl_jax.report.markup import Markup, tag
from ssl_jax.report.patches import Grid

COARSE = 64  # images not larger than this are shown with their pixels as squares
THUMB, PICTURE = 64, 128  # sides of images in a crowd, and by themselves
PER_ROW = 12  # images of a contact sheet
RIGHT, WRONG = "✓", "✗"


def data_uri(image: np.ndarray) -> str:
    """An image (h, w, C) uint8: small ones as PNG, exactly, others as WebP; of more channels than a
    picture can show the first ones.
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
    """An `<img>`, not larger than `side` pixels."""
    image = reduced(image, side)
    height, width = image.shape[:2]
    kind = "coarse" if width <= COARSE else None
    return tag("img", src=data_uri(image), alt=alt, width=width, height=height, class_=kind)


def cell(
    image: np.ndarray, alt: str, side: int, right: bool | None = None, text: str = ""
) -> Markup:
    """An image and what is said of it below; right and wrong by sign, colour and line."""
    kind = "cell" if right is None else "cell right" if right else "cell wrong"
    mark = "" if right is None else RIGHT if right else WRONG
    said = f"{mark} {text}".strip()
    below = [tag("span", said, title=text)] if said else []
    return tag("div", picture(image, alt, side), *below, class_=kind)


def rows_of(columns: Sequence[str], rows: Sequence[Sequence[Markup]], kind: str = "") -> Markup:
    """Cells in rows and columns under the columns' names."""
    heads = [tag("div", name, class_="head") for name in columns]
    cells = [each for row in rows for each in row]
    count = len(rows[0])
    return tag("div", *heads, *cells, class_=f"cells {kind}".strip(), style=f"--columns:{count}")


def neighbours(found: Neighbours, train: Examples, test: Examples, names: Sequence[str]) -> Markup:
    """A row a query: the evaluation image, and its nearest training images."""
    rows = []
    for query, near in zip(found.queries, found.nearest, strict=True):
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
    return rows_of(heads, rows, "asked")


def sheet(images: np.ndarray, alt: str) -> Markup:
    """Images (N, h, w, c) in rows as one picture."""
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


def clusters(found: Sequence[Cluster], train: Examples, names: Sequence[str]) -> Markup:
    """A contact sheet a cluster."""
    figures = []
    for number, cluster in enumerate((c for c in found if len(c.rows)), 1):
        said = f"{cluster.size} images"
        name = labels_of(names, cluster.label)
        if name:
            said += f", {cluster.purity:.0%} are of class {name}"
        alt = f"{len(cluster.rows)} images of cluster {number}: {said}"
        caption = tag("figcaption", tag("strong", f"Cluster {number}"), f" {said}")
        figures.append(tag("figure", caption, sheet(train.images[cluster.rows], alt)))
    return tag("div", *figures, class_="sheets")


def grid(title: str, found: Grid) -> Markup:
    """A picture, in two blocks where it has few columns."""
    rows: list[list[Markup]] = []
    few = len(found.images[0]) <= 4
    for i, images in enumerate(found.images):
        row = []
        for j, image in enumerate(images):
            right, text = None, ""
            if found.said is not None and found.said[i, j] >= 0:
                text = labels_of(found.answers, int(found.said[i, j]))
                if found.truth is not None:
                    right = bool(found.said[i, j] == found.truth[i, j])
            name = found.columns[j] if found.columns else f"image {j + 1}"
            verdict = "" if right is None else ", right" if right else ", wrong"
            alt = f"{title}, row {i + 1}, {name}{verdict}"
            row.append(cell(image, alt, PICTURE if few else THUMB, right, text))
        rows.append(row)
    half = -(-len(rows) // 2)
    blocks = [rows[:half], rows[half:]] if few and len(rows) > 3 else [rows]
    drawn = [rows_of(found.columns, block, "few" if few else "") for block in blocks]
    return tag("div", *drawn, class_="blocks")
