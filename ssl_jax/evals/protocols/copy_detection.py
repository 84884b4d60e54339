"""Copy detection on Copydays: strongly edited copies are searched among originals (DINO's protocol,
2104.14294, after Jegou et al.).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count
from ssl_jax.evals.base import Protocol, Subject
from ssl_jax.evals.descriptors import Descriptor, describe, files_in
from ssl_jax.evals.ranking import cosines, trapezoid_precision, whitened

ORIGINAL = "original"
PREFIX = 4  # characters of a file's name that copies share with their original


@dataclass(frozen=True, kw_only=True)
class CopyDetection(Protocol):
    """Mean average precision of the original of each copy among the originals and distractors.

    Attributes:
      data: folder with `original/` and further folders of copies: `strong/`, `jpegqual/15/`, ...;
        without it nothing is measured. A copy and its original begin with the same 4 characters.
        `copy_detection_strong_map` is that of the copies in `strong/`.
      distractors: folder of further images to search among.
      whitening: folder of other images by which the descriptors are whitened.
      descriptor: "cls_gem" (the class token and the generalised mean of the patches), "gem" or
        "pooled"; see `descriptors.describe`.
      size: images are resized to squares of this side.
      first: images of a ranking that count; an original below them is not retrieved.
    """

    titles: ClassVar[Mapping[str, str]] = {
        "copy_detection_{kind}_map": "originals of {kind} copies, mean average precision",
    }
    scores: ClassVar[tuple[str, ...]] = ("copy_detection",)
    decides: ClassVar[tuple[str, ...]] = ("copy_detection_strong_map",)
    labels: ClassVar[bool] = False
    needs: ClassVar[str] = "a folder of originals and copies (data)"

    data: str = ""
    distractors: str = ""
    whitening: str = ""
    descriptor: Descriptor = "cls_gem"
    size: Count = 320
    first: Count = 20

    def applies(self, subject: Subject) -> bool:
        """Return whether it has images; raw pixels are measured too."""
        return bool(self.data)

    def measure(self, subject: Subject) -> dict[str, float]:
        folder = Path(self.data).expanduser()
        originals = files_in(folder / ORIGINAL)
        blocks = self._blocks(folder)
        database = originals + (files_in(Path(self.distractors)) if self.distractors else [])
        searched = self._describe(subject, database)
        others = self._describe(subject, files_in(Path(self.whitening))) if self.whitening else None
        numbers = {}
        for name, files in blocks.items():
            rows = self._describe(subject, files)
            if others is None:
                similarity = cosines(rows, searched)
            else:
                similarity = cosines(whitened(rows, others), whitened(searched, others))
            order = np.argsort(-similarity, axis=1, kind="stable")[:, : self.first]
            precisions = []
            for file, ranking in zip(files, order, strict=True):
                positives = [
                    i for i, o in enumerate(originals) if o.name[:PREFIX] == file.name[:PREFIX]
                ]
                if not positives:
                    prefix = file.name[:PREFIX]
                    raise UserError(
                        f"{file}: no image in {folder / ORIGINAL} begins with {prefix!r}"
                    )
                ranks = np.flatnonzero(np.isin(ranking, positives))
                precisions.append(trapezoid_precision(ranks, len(positives)))
            numbers[f"copy_detection_{name}_map"] = float(np.mean(precisions))
        return numbers

    def _blocks(self, folder: Path) -> dict[str, list[Path]]:
        """Return the copies by the name of their kind, such as "strong" or "crops_50"."""
        blocks: dict[str, list[Path]] = {}
        for file in files_in(folder):
            *parts, _ = file.relative_to(folder).parts
            if parts and parts != [ORIGINAL]:
                blocks.setdefault("_".join(parts), []).append(file)
        if not blocks:
            raise UserError(f"{folder}: no folder of copies, such as strong/, beside {ORIGINAL}/")
        return blocks

    def _describe(self, subject: Subject, files: list[Path]) -> np.ndarray:
        return describe(subject, files, self.descriptor, self.size, square=True)
