"""Images with the boxes of their objects, from `coco:` and `voc:` data sets."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.sources import coco, voc
from ssl_jax.data.sources.folder import FolderSource


class Objects(NamedTuple):
    """The n objects of an image.

    Attributes:
      corners: (n, 4) float32, left, top, right, bottom in pixels of the file; the right and bottom
        edges are exclusive, and no box is empty.
      classes: (n,) numbers.
      ignored: (n,) bool: crowds of COCO and difficult objects of VOC, which count neither as
        objects nor as background.
      outlines: n outlines in COCO's format, polygons or run lengths; None where there is none.
    """

    corners: np.ndarray
    classes: np.ndarray
    ignored: np.ndarray
    outlines: tuple[Any, ...]


class BoxedImages(NamedTuple):
    """Images of a data set, the objects of each, and the names of the classes."""

    name: str
    files: list[Path]
    objects: list[Objects]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, spec: str, split: Literal["train", "eval"]) -> Self:
        """Read `coco:ROOT` or `voc:ROOT`; parts are chosen as for other uses of these data.

        Raises:
          UserError: another scheme, or annotations without usable boxes.
        """
        scheme, _, path = spec.partition(":")
        if scheme not in SCHEMES or not path:
            known = " or ".join(f"{name}:PATH" for name in SCHEMES)
            raise UserError(f"{spec!r} has no boxes; expected {known}")
        load, read = SCHEMES[scheme]
        source = load(path, split)
        rows = read(path, split, source)
        files = [Path(source.describe(i)) for i in range(len(source))]
        number = {text: i for i, text in enumerate(source.class_names)}
        return cls(source.name, files, [_objects(row, number) for row in rows], source.class_names)

    @classmethod
    def pair(cls, train: str, test: str) -> tuple[Self, Self]:
        """Read a training and a test set with one numbering of their classes. Without `test` it is
        the held-out part of `train`.

        Raises:
          UserError: see `of`; or no held-out part, or a set in which no object counts.
        """
        first, second = cls.of(train, "train"), cls.of(test or train, "eval")
        if not test and first.files == second.files:
            raise UserError(f"{first.name} has no held-out part; set test")
        for part in (first, second):
            if all(row.ignored.all() for row in part.objects):
                raise UserError(f"{part.name}: no box of an object in it")
        classes = tuple(dict.fromkeys((*first.classes, *second.classes)))
        places = np.array([classes.index(text) for text in second.classes])
        renamed = [row._replace(classes=places[row.classes]) for row in second.objects]
        return first._replace(classes=classes), second._replace(objects=renamed, classes=classes)


Row = list[tuple[str, list[float], bool, Any]]  # class, corners, ignored, outline


def _objects(row: Row, number: Mapping[str, int]) -> Objects:
    row = [entry for entry in row if _usable(entry[1])]
    corners = np.array([entry[1] for entry in row], np.float32).reshape(-1, 4)
    classes = np.array([number[entry[0]] for entry in row], np.int64)
    ignored = np.array([entry[2] for entry in row], bool)
    return Objects(corners, classes, ignored, tuple(entry[3] for entry in row))


def _usable(corners: list[float]) -> bool:
    left, top, right, bottom = corners
    return bool(np.isfinite(corners).all() and left < right and top < bottom)


def _of_coco(path: str, split: Literal["train", "eval"], source: FolderSource) -> list[Row]:
    content, kind = coco.annotations(path, split)
    try:
        category = {c["id"]: str(c[kind]) for c in content["categories"]}
        rows: dict[Any, Row] = {image["id"]: [] for image in content["images"]}
        for a in content["annotations"]:
            left, top, width, height = map(float, a["bbox"])
            corners = [left, top, left + width, top + height]
            crowd = bool(a.get("iscrowd", 0))
            outline = a.get("segmentation") or None
            rows[a["image_id"]].append((category[a["category_id"]], corners, crowd, outline))
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise UserError(
            f"{source.name}: expected a bbox [left, top, width, height] in each annotation "
            f"({type(e).__name__} {e})"
        ) from None
    return list(rows.values())


def _of_voc(path: str, split: Literal["train", "eval"], source: FolderSource) -> list[Row]:
    rows: list[Row] = []
    for name in source.names or ():
        file = source.root.parent / "Annotations" / Path(name).with_suffix(".xml")
        row: Row = []
        for entry in voc.entries(source.name, file):
            try:
                box = [float(entry.findtext(f"bndbox/{key}") or "") for key in CORNERS]
            except ValueError:
                raise UserError(f"{file}: expected a bndbox of four numbers per object") from None
            # VOC counts pixels from 1, and the last row and column belong to the box.
            corners = [box[0] - 1, box[1] - 1, box[2], box[3]]
            row.append((voc.name_of(entry), corners, voc.is_difficult(entry), None))
        rows.append(row)
    return rows


CORNERS = ("xmin", "ymin", "xmax", "ymax")
SCHEMES: Mapping[str, tuple[Callable[..., FolderSource], Callable[..., list[Row]]]] = {
    "coco": (coco.load, _of_coco),
    "voc": (voc.load, _of_voc),
}
