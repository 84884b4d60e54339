"""Robustness to backgrounds: ImageNet-9's variations and the gap between them (2006.09994)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count
from ssl_jax.data.sources import Source
from ssl_jax.evals.base import AtLayer, Subject
from ssl_jax.evals.classifiers import Kind, trained
from ssl_jax.evals.scores import accuracies, best_classes
from ssl_jax.evals.shifted_sets import ShiftedSet, open_labelled, wider_classes

SAME, RANDOM = "mixed_same", "mixed_rand"  # backgrounds of the same class, of a random one


@dataclass(frozen=True, kw_only=True)
class Backgrounds(AtLayer):
    """Accuracies on objects before other backgrounds: the predicted class of the training set
    counts as its wider class.

    `backgrounds_VARIATION_top1` is that on a variation, and `backgrounds_gap` is that on
    `mixed_same` minus that on `mixed_rand`: how much a background of the right class helps.

    Attributes:
      data: folder with `mixed_same/`, `mixed_rand/` and further variations, each with a folder per
        class, or these in `val/`; without it nothing is measured.
      classes: file that assigns the classes of the training set to those of the variations, both by
        name or number: ImageNet-9's in_to_in9.json, see `shifted_sets.wider_classes`; by default
        they are the same.
      classifier: see `classifiers.trained`.
      examples: most images of each variation, drawn evenly over its classes.
    """

    titles: ClassVar[Mapping[str, str]] = {
        f"backgrounds_{SAME}_top1": "objects before backgrounds of their class",
        f"backgrounds_{RANDOM}_top1": "objects before random backgrounds",
        "backgrounds_gap": "the difference of these",
    }
    scores: ClassVar[tuple[str, ...]] = ("backgrounds_mixed", "backgrounds_original")
    decides: ClassVar[tuple[str, ...]] = (f"backgrounds_{RANDOM}_top1",)
    needs: ClassVar[str] = "labels, and a folder of variations of backgrounds (data)"

    data: str = ""
    classes: str = ""
    classifier: Kind = "linear"
    examples: Count = 10_000

    def applies(self, subject: Subject) -> bool:
        return bool(self.data) and super().applies(subject)

    def check(self, subject: Subject) -> None:
        super().check(subject)
        self._open(subject)

    def measure(self, subject: Subject) -> dict[str, float]:
        classifier, (variations, of) = trained(self.classifier, self, subject), self._open(subject)
        numbers: dict[str, float] = {}
        for name, source in variations.items():
            same = ShiftedSet(source, np.arange(len(source.class_names)))
            rows, labels = same.read(subject, subject.probe_of(self), self.examples)
            best = best_classes(classifier.possible(rows), 1)[:, 0]
            guesses = np.where(best >= 0, of[best], -1)
            numbers |= accuracies(guesses, labels, f"backgrounds_{name}")
        same_top1, random_top1 = (numbers[f"backgrounds_{v}_top1"] for v in (SAME, RANDOM))
        return numbers | {"backgrounds_gap": same_top1 - random_top1}

    def _open(self, subject: Subject) -> tuple[dict[str, Source], np.ndarray]:
        """Return the variations by name, and the number of the wider class of each class (C,).

        Raises:
          UserError: a variation is missing, or variations of different classes.
        """
        folder = Path(self.data).expanduser()
        folders = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
        for name in (SAME, RANDOM):
            if name not in folders:
                raise UserError(f"backgrounds.data: no folder {folder / name}")
        variations = {name: open_labelled(f"folder:{folder / name}") for name in folders}
        names = variations[SAME].class_names
        for name, source in variations.items():
            if source.class_names != names:
                raise UserError(
                    f"backgrounds.data: {folder / name} has the classes "
                    f"{', '.join(source.class_names[:3])}, ...; expected those of {SAME}"
                )
        return variations, wider_classes(self.classes, subject.class_names, names)
