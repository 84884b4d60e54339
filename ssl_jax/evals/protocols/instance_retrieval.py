"""Instance retrieval on revisited Oxford and Paris (Radenovic et al., 1803.11285)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.plain import from_json, is_number, is_whole
from ssl_jax.core.ranges import Count, Positive
from ssl_jax.evals.base import Protocol, Subject
from ssl_jax.evals.descriptors import Box, Descriptor, describe, files_in
from ssl_jax.evals.ranking import cosines, revisited, whitened

KINDS = ("easy", "hard", "junk")
TRUTH, IMAGES = "gnd.json", "jpg"


@dataclass(frozen=True, kw_only=True)
class InstanceRetrieval(Protocol):
    """Mean average precision of the images of a query's landmark, by the easy, medium and hard
    protocols, and mean precision of the first 1, 5 and 10; see `ranking.revisited`.

    Attributes:
      data: folder with `jpg/NAME.jpg` and `gnd.json`: an object of `imlist` and `qimlist`, names of
        the images and the queries, and `gnd`, for each query `easy`, `hard` and `junk`, numbers of
        images from 0, and `bbx`, its left, top, right and bottom pixel. Without it nothing is
        measured.
      whitening: folder of other images by which the descriptors are whitened.
      descriptor: "pooled" (the network's own output), "gem" or "cls_gem"; see
        `descriptors.describe`.
      size: the longer side of the images is resized to it.
      scales: factors of `size`, over which descriptors are averaged.
      crop: crop the queries to their boxes.
    """

    titles: ClassVar[Mapping[str, str]] = {
        "instance_retrieval_{kind}_map": "landmarks, {kind}, mean average precision",
        "instance_retrieval_{kind}_mp{k}": "landmarks, {kind}, precision of the first {k}",
    }
    scores: ClassVar[tuple[str, ...]] = ("instance_retrieval",)
    decides: ClassVar[tuple[str, ...]] = ("instance_retrieval_medium_map",)
    labels: ClassVar[bool] = False
    needs: ClassVar[str] = "a folder of images and queries (data)"

    data: str = ""
    whitening: str = ""
    descriptor: Descriptor = "pooled"
    size: Count = 1024
    scales: tuple[Positive, ...] = (1.0,)
    crop: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scales:
            raise UserError("instance_retrieval: give scales")

    def applies(self, subject: Subject) -> bool:
        """Return whether it has images; raw pixels are measured too."""
        return bool(self.data)

    def measure(self, subject: Subject) -> dict[str, float]:
        folder = Path(self.data).expanduser()
        images, queries, truth = read_truth(folder / TRUTH)
        files, query_files = (
            [folder / IMAGES / f"{name}.jpg" for name in names] for names in (images, queries)
        )
        boxes = [entry["bbx"] for entry in truth] if self.crop else []
        options = (self.descriptor, self.size, False, self.scales)
        database = describe(subject, files, *options)
        rows = describe(subject, query_files, *options, boxes)
        if self.whitening:
            others = describe(subject, files_in(Path(self.whitening)), *options)
            database, rows = (whitened(x, others) for x in (database, rows))
        numbers = revisited(cosines(rows, database), truth)
        return {f"instance_retrieval_{name}": value for name, value in numbers.items()}


def read_truth(file: Path) -> tuple[list[str], list[str], list[dict[str, Any]]]:
    """Read the names of the images and the queries, and for each query its images and its box,
    which is None if the file has none.

    Raises:
      UserError: a file that cannot be read or has another format.
    """
    try:
        content = from_json(file.read_text("utf-8-sig"))
        images, queries, entries = (content[key] for key in ("imlist", "qimlist", "gnd"))
        named = all(isinstance(name, str) for name in [*images, *queries])
        truth: list[dict[str, Any]] = []
        for entry in entries:
            kinds = {kind: [int(i) for i in entry[kind] if is_whole(i)] for kind in KINDS}
            sizes = [len(entry[kind]) for kind in KINDS]
            if [len(rows) for rows in kinds.values()] != sizes:
                raise ValueError("numbers of images that are none")
            truth.append({**kinds, "bbx": _box(entry.get("bbx"))})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        reason = getattr(e, "strerror", None) or f"{type(e).__name__} {e}"
        raise UserError(
            f"{file}: expected an object of imlist, qimlist and gnd, as in the files of revisited "
            f"Oxford and Paris ({reason})"
        ) from None
    if not named or not images or not queries or len(queries) != len(truth):
        raise UserError(
            f"{file}: expected names of images and queries and one entry of gnd per query, got "
            f"{len(images)}, {len(queries)} and {len(truth)}"
        )
    most = max((i for entry in truth for kind in KINDS for i in entry[kind]), default=-1)
    if most >= len(images):
        raise UserError(f"{file}: image {most} of gnd is none of the {len(images)} of imlist")
    outside = next((n for n in [*images, *queries] if ".." in Path(n).parts or n[:1] == "/"), None)
    if outside is not None:
        raise UserError(f"{file}: {outside[:80]!r} leads out of the folder of images")
    return images, queries, truth


def _box(value: Any) -> Box | None:
    if value is None:
        return None
    if len(value) != 4 or not all(is_number(x) and np.isfinite(x) for x in value):
        raise ValueError(f"bbx {value}")
    left, top, right, bottom = map(float, value)
    return left, top, right, bottom
