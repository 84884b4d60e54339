"""Classifiers of frozen features that are trained on the training set once, then applied to other
sets of images.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Literal
from weakref import WeakKeyDictionary

import numpy as np
from scipy.special import softmax

from ssl_jax.evals.base import AtLayer, Subject
from ssl_jax.evals.checks import NotMeasurable
from ssl_jax.evals.protocols.knn import Knn, knn_probabilities
from ssl_jax.evals.protocols.linear import Linear, Paper, fit

Kind = Literal["linear", "knn", Paper]


@dataclass(frozen=True)
class TrainedClassifier:
    """A trained classifier.

    Attributes:
      scores: function of features (N, D) that returns a score per class (N, C): the logits of a
        linear classifier, -inf for a class without training examples, or the shares of the
        neighbours' votes.
      votes: whether the scores are shares of votes.
    """

    scores: Callable[[np.ndarray], np.ndarray]
    votes: bool = False

    def probabilities(self, rows: np.ndarray) -> np.ndarray:
        """Return the probability of each class (N, C) float64.

        Raises:
          NotMeasurable: a score is NaN; also raised by `possible`.
        """
        scores = self._checked(rows).astype(np.float64)
        return scores if self.votes else np.asarray(softmax(scores, axis=1))

    def possible(self, rows: np.ndarray) -> np.ndarray:
        """Return the scores (N, C), -inf for classes without a vote, which are never predicted."""
        scores = self._checked(rows)
        return np.where(scores > 0, scores, -np.inf) if self.votes else scores

    def _checked(self, rows: np.ndarray) -> np.ndarray:
        scores = self.scores(rows)
        if broken := int(np.isnan(scores).any(axis=1).sum()):
            raise NotMeasurable(
                f"the classifier's scores of {broken} of {len(rows)} images are NaN"
            )
        return scores


_trained: WeakKeyDictionary[Subject, dict[Hashable, TrainedClassifier]] = WeakKeyDictionary()


def trained(kind: Kind, protocol: AtLayer, subject: Subject) -> TrainedClassifier:
    """Train a classifier on the subject's training features, where the protocol reads them; the
    protocols of one subject share it.

    Args:
      kind: "linear" is the protocol `linear` with its preset "lbfgs", "knn" is `knn`, both with
        their default settings; others are presets of `linear`.

    Raises:
      NotMeasurable: fewer than two classes, or training that diverged.
    """
    made = _trained.setdefault(subject, {})
    key = kind, subject.probe_of(protocol)
    if key not in made:
        made[key] = _train(kind, protocol, subject)
    return made[key]


def _train(kind: Kind, protocol: AtLayer, subject: Subject) -> TrainedClassifier:
    train, mesh, classes = subject.train(protocol), subject.images.mesh, subject.classes
    if kind == "knn":
        k = min(Knn.k, len(train.labels))

        def votes(rows: np.ndarray) -> np.ndarray:
            shares = knn_probabilities(*train, rows, classes, [k], [Knn.temperature], mesh)
            return shares[0, 0]

        return TrainedClassifier(votes, votes=True)
    setting = Linear(preset="lbfgs" if kind == "linear" else kind)
    (head,) = fit(train, [setting], classes, mesh)
    if not head.finite:
        raise NotMeasurable(f"the linear classifier {kind!r} diverged; choose another classifier")
    return TrainedClassifier(head.logits)
