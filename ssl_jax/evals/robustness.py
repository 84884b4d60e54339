"""Base class of the protocols that train one classifier and test it on images of another kind than
the training set's.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from ssl_jax.data.sources import Source
from ssl_jax.evals.base import AtLayer, Subject
from ssl_jax.evals.classifiers import Kind, TrainedClassifier, trained
from ssl_jax.evals.images import Labelled
from ssl_jax.evals.scores import best_classes
from ssl_jax.evals.shifted_sets import ShiftedSet

Opened = TypeVar("Opened")
# Training set -> protocol -> its test sets: listing the 3.75 million files of ImageNet-C takes
# minutes, and a trained network, an untrained one and raw pixels are each checked and measured.
_opened: WeakKeyDictionary[Source, dict["RobustnessProtocol[Any]", Any]] = WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True)
class RobustnessProtocol(AtLayer, Generic[Opened]):
    """A protocol that trains a classifier on the training images and tests it on other images.

    Attributes:
      named_by: the setting that names the test images; without it nothing is measured.
      classifier: classifier trained on the training images; see `classifiers.trained`.
    """

    named_by: ClassVar[str] = "data"

    classifier: Kind = "linear"

    def applies(self, subject: Subject) -> bool:
        return bool(getattr(self, self.named_by)) and super().applies(subject)

    def check(self, subject: Subject) -> None:
        super().check(subject)
        self.opened(subject)

    def open(self, subject: Subject) -> Opened:
        """Open the test images.

        Raises:
          UserError: they are missing, or do not fit the training set.
        """
        raise NotImplementedError

    def opened(self, subject: Subject) -> Opened:
        """Return what `open` returns, opened once for all subjects of a training set."""
        of_protocols = _opened.setdefault(subject.images.train.source, {})
        if self not in of_protocols:
            of_protocols[self] = self.open(subject)
        return of_protocols[self]  # type: ignore[no-any-return]

    def trained(self, subject: Subject) -> TrainedClassifier:
        """Return the classifier, trained on the subject's training features."""
        return trained(self.classifier, self, subject)

    def scores_on(self, subject: Subject, shifted: ShiftedSet, examples: int) -> Labelled:
        """Return the scores of the classes (N, C), -inf for classes that are never predicted, and
        the labels of at most `examples` images of a test set.
        """
        rows, labels = shifted.read(subject, subject.probe_of(self), examples)
        return Labelled(self.trained(subject).possible(rows), labels)


def predictions(scores: np.ndarray) -> np.ndarray:
    """Return the class (N,) of the greatest score (N, C), the first among equals; -1 if all scores
    are -inf.
    """
    return best_classes(scores, 1)[:, 0]
