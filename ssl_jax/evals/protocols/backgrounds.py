"""Robustness to backgrounds: ImageNet-9's variations and the gap between them (2006.09994)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count
from ssl_jax.data.sources import Source
from ssl_jax.evals.base import Subject
from ssl_jax.evals.robustness import RobustnessProtocol, predictions
from ssl_jax.evals.scores import accuracies, accuracy_titles
from ssl_jax.evals.shifted_sets import ShiftedSet, open_labelled, wider_classes

SAME, RANDOM = "mixed_same", "mixed_rand"  # backgrounds of the same class, of a random one


class Variations(NamedTuple):
    """Test sets of other backgrounds.

    Attributes:
      sources: the sets by name.
      of: (C,), the number of the wider class of each class of the training set, -1 for none.
    """

    sources: dict[str, Source]
    of: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Backgrounds(RobustnessProtocol[Variations]):
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
      examples: most images of each variation, drawn evenly over its classes.
    """

    titles: ClassVar[Mapping[str, str]] = {
        **accuracy_titles(f"backgrounds_{SAME}", "objects before backgrounds of their class"),
        **accuracy_titles(f"backgrounds_{RANDOM}", "objects before random backgrounds"),
        "backgrounds_gap": "what backgrounds of the right class add to random ones",
        **accuracy_titles("backgrounds_{set}", "variation {set} of the backgrounds"),
    }
    scores: ClassVar[tuple[str, ...]] = (
        "backgrounds_mixed",
        "backgrounds_original",
        "backgrounds_only_fg",
    )
    decides: ClassVar[tuple[str, ...]] = (f"backgrounds_{RANDOM}_top1",)
    needs: ClassVar[str] = "labels, and a folder of variations of backgrounds (data)"

    data: str = ""
    classes: str = ""
    examples: Count = 10_000

    def measure(self, subject: Subject) -> dict[str, float]:
        sources, of = self.opened(subject)
        numbers: dict[str, float] = {}
        for name, source in sources.items():
            same = ShiftedSet(source, np.arange(len(source.class_names)))
            scores, labels = self.scores_on(subject, same, self.examples)
            best = predictions(scores)
            guesses = np.where(best >= 0, of[best], -1)
            numbers |= accuracies(guesses, labels, f"backgrounds_{name}")
        same_top1, random_top1 = (numbers[f"backgrounds_{v}_top1"] for v in (SAME, RANDOM))
        return numbers | {"backgrounds_gap": same_top1 - random_top1}

    def open(self, subject: Subject) -> Variations:
        """Open the variations.

        Raises:
          UserError: a variation is missing, or variations of different classes.
        """
        folder = Path(self.data).expanduser()
        inside = folder.iterdir() if folder.is_dir() else ()
        folders = sorted(p.name for p in inside if p.is_dir() and not p.name.startswith("."))
        for name in (SAME, RANDOM):
            if name not in folders:
                raise UserError(f"backgrounds.data: no folder {folder / name}")
        sources = {name: open_labelled(f"folder:{folder / name}") for name in folders}
        names = sources[SAME].class_names
        for name, source in sources.items():
            if source.class_names != names:
                raise UserError(
                    f"backgrounds.data: {folder / name} has the classes "
                    f"{', '.join(source.class_names[:3])}, ...; expected those of {SAME}"
                )
        of = wider_classes(self.classes, subject.class_names, names, "backgrounds.classes")
        return Variations(sources, of)
