"""Robustness: a classifier of the training images, tested on sets of another appearance
(ImageNet-A 1907.07174, -R 2006.16241, -Sketch 1905.13549, -V2 1902.10811, or one's own).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ssl_jax.core.ranges import Count
from ssl_jax.evals.base import Subject
from ssl_jax.evals.images import Labelled
from ssl_jax.evals.robustness import RobustnessProtocol, predictions
from ssl_jax.evals.scores import accuracies, accuracy_titles, best_classes, guesses_of
from ssl_jax.evals.shifted_sets import CLEAN, ShiftedSet, named_specs, open_shifted


@dataclass(frozen=True, kw_only=True)
class Shifts(RobustnessProtocol[dict[str, ShiftedSet]]):
    """Accuracies of one classifier on several test sets, and on the clean evaluation images of the
    same classes.

    `shifts_NAME_top1` is the accuracy on a set, `shifts_NAME_clean_top1` that on the clean images
    of its classes under the same restriction, `shifts_clean_top1` that on all clean images, and
    `shifts_top1` the mean over the sets.

    Attributes:
      sets: test sets as --data takes them, "SPEC" or "NAME=SPEC"; without them nothing is measured.
        Their classes are those of the training set or some of them, by name or by number.
      restrict: predict only classes that the set has images of, as is usual for ImageNet-A and -R.
      examples: most images of each set, drawn evenly over its classes.
    """

    titles: ClassVar[Mapping[str, str]] = {
        "shifts_top1": "shifted test sets, mean over them",
        f"shifts_{CLEAN}_top1": "the same classifier on the clean images",
        **accuracy_titles("shifts_{set}", "shifted test set {set}"),
        f"shifts_{{set}}_{CLEAN}_top1": "the clean images of the classes of {set}",
    }
    scores: ClassVar[tuple[str, ...]] = ("shifts",)
    decides: ClassVar[tuple[str, ...]] = ("shifts_top1",)
    needs: ClassVar[str] = "labels, and shifted test sets (sets)"

    named_by: ClassVar[str] = "sets"

    sets: tuple[str, ...] = ()
    restrict: bool = True
    examples: Count = 10_000

    def open(self, subject: Subject) -> dict[str, ShiftedSet]:
        """Return the test sets by name."""
        named = named_specs(self.sets, "shifts.sets")
        return {name: open_shifted(spec, subject.class_names) for name, spec in named.items()}

    def measure(self, subject: Subject) -> dict[str, float]:
        test = subject.test(self)
        clean = Labelled(self.trained(subject).possible(test.features), test.labels)
        numbers = {"shifts_clean_top1": accuracy(clean, np.arange(subject.classes))}
        top1 = []
        for name, shifted in self.opened(subject).items():
            classes = shifted.classes if self.restrict else np.arange(subject.classes)
            scores, labels = self.scores_on(subject, shifted, self.examples)
            guesses = best_classes(restricted(scores, classes), guesses_of(len(classes)))
            numbers |= accuracies(guesses, labels, f"shifts_{name}")
            of_set = np.isin(test.labels, shifted.classes)
            if of_set.any():
                numbers[f"shifts_{name}_clean_top1"] = accuracy(clean.rows(of_set), classes)
            top1.append(numbers[f"shifts_{name}_top1"])
        return numbers | {"shifts_top1": float(np.mean(top1))}


def restricted(scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the scores (N, C) of the classes of these numbers, -inf for all others."""
    allowed = np.zeros(scores.shape[1], bool)
    allowed[classes] = True
    return np.where(allowed, scores, -np.inf)


def accuracy(data: Labelled, classes: np.ndarray) -> float:
    """Return the share of rows of scores (N, C) whose best class, among these, is right."""
    return float(np.mean(predictions(restricted(data.features, classes)) == data.labels))
