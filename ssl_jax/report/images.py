"""Pictures inside the page, as data URIs in rows and columns; a sign marks right and wrong."""

import base64
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from ssl_jax.data.decode import viewable
from ssl_jax.report.look import Cluster, Examples, Neighbours, alike, labels_of, reduced
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


class ImageTag(NamedTuple):
    """An `<img>`: its data URI, description and size; `coarse` images show their pixels."""

    src: str
    alt: str
    width: int
    height: int
    coarse: bool


class Cell(NamedTuple):
    """A picture with a caption below.

    Attributes:
      text: full text of the caption.
      right: whether it is right or wrong; None for neither.
    """

    picture: ImageTag
    text: str = ""
    right: bool | None = None

    @property
    def caption(self) -> str:
        mark = "" if self.right is None else RIGHT if self.right else WRONG
        return f"{mark} {self.text}".strip()


class Sheet(NamedTuple):
    """Images of a cluster in one picture."""

    description: str
    picture: ImageTag


class Blocks(NamedTuple):
    """Rows of cells below the same columns, in one or two blocks."""

    columns: Sequence[str]
    blocks: Sequence[Sequence[Sequence[Cell]]]
    few: bool = False


def picture(image: np.ndarray, alt: str, side: int = PICTURE) -> ImageTag:
    """Return a picture of at most `side` pixels per side."""
    image = reduced(image, side)
    height, width = image.shape[:2]
    return ImageTag(data_uri(image), alt, width, height, width <= COARSE)


def neighbours(
    neighbours: Neighbours, train: Examples, test: Examples, names: Sequence[str]
) -> tuple[list[str], list[list[Cell]]]:
    """Return the columns and one row per query: the evaluation image and its nearest training
    images.
    """
    rows = []
    same = alike(test, neighbours.queries, train, neighbours.nearest)
    for query, near, verdicts in zip(neighbours.queries, neighbours.nearest, same, strict=True):
        name = test.text(int(query), names)
        alt = f"evaluation image {name}".strip()
        row = [Cell(picture(test.images[query], alt, THUMB), name)]
        for place, (index, value) in enumerate(zip(near, verdicts, strict=True), 1):
            right = bool(value) if value >= 0 else None
            text = train.text(int(index), names)
            verdict = "" if right is None else ", the same class" if right else ", another class"
            alt = f"neighbour {place} {text}{verdict}"
            row.append(Cell(picture(train.images[index], alt, THUMB), text, right))
        rows.append(row)
    return ["query", *map(str, range(1, len(rows[0])))], rows


def sheet(images: np.ndarray, alt: str) -> ImageTag:
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
    return ImageTag(data_uri(whole), alt, whole.shape[1], whole.shape[0], width <= COARSE // 2)


def clusters(clusters: Sequence[Cluster], train: Examples, names: Sequence[str]) -> list[Sheet]:
    """Return one contact sheet per cluster that has images."""
    sheets = []
    for number, cluster in enumerate((c for c in clusters if len(c.rows)), 1):
        description = f"{cluster.size} images"
        name = labels_of(names, cluster.label)
        if name:
            description += f", {cluster.purity:.0%} are of class {name}"
        alt = f"{len(cluster.rows)} images of cluster {number}: {description}"
        sheets.append(Sheet(description, sheet(train.images[cluster.rows], alt)))
    return sheets


def grid(title: str, grid: Grid) -> Blocks:
    """Return the cells of a figure, in two blocks side by side where it has few columns."""
    rows: list[list[Cell]] = []
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
            row.append(Cell(picture(image, alt, PICTURE if few else THUMB), text, right))
        rows.append(row)
    half = -(-len(rows) // 2)
    return Blocks(
        grid.columns, [rows[:half], rows[half:]] if few and len(rows) > 3 else [rows], few
    )
