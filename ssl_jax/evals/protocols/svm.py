"""Low-shot linear SVMs on frozen features, the protocol of VOC07 (Goyal et al., 1905.01235)."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import precision_recall_curve
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, Positive
from ssl_jax.data.subset import draw_labels
from ssl_jax.evals.base import AtLayer, Subject
from ssl_jax.evals.checks import NotMeasurable
from ssl_jax.evals.images import Labelled
from ssl_jax.evals.protocols.fewshot import check_shots
from ssl_jax.losses.shapes import check_shapes

FOLDS = 3
FEW = 1.0  # C of a class with a single example, which cannot be split into folds


@dataclass(frozen=True, kw_only=True)
class Svm(AtLayer):
    """Mean over the classes of the average precision of one-vs-rest SVMs; see `svm_map`.

    Attributes:
      shots: labels per class; a class with fewer contributes all of them.
      draws: random draws of those labels, averaged.
      full: also measure with all labels.
      costs: values of C to choose from.
    """

    scores: ClassVar[tuple[str, ...]] = ("svm",)
    decides: ClassVar[tuple[str, ...]] = ("svm",)

    shots: tuple[Count, ...] = (1, 2, 4, 8, 16, 32, 64, 96)
    draws: Count = 5
    full: bool = True
    # Those of the vissl library.
    costs: tuple[Positive, ...] = (0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.costs:
            raise UserError("svm: give costs")
        if not self.shots and not self.full:
            raise UserError("svm: give shots, or full=True")

    def unused(self) -> Mapping[str, str]:
        return {} if self.shots else {"draws": "all labels are used, none drawn; give shots"}

    def measure(self, subject: Subject) -> dict[str, float]:
        train, test = subject.train(self), subject.test(self)
        check_shots(self, self.shots, train)
        scores = {}
        for k in self.shots:
            rows = (draw_labels(train.labels, k, 0, draw) for draw in range(self.draws))
            subsets = (Labelled(train.features[r], train.labels[r]) for r in rows)
            scores[f"svm{k}_map"] = float(np.mean([svm_map(s, test, self.costs) for s in subsets]))
        if self.full:
            scores["svm_map"] = svm_map(train, test, self.costs)
        return scores


def svm_map(train: Labelled, test: Labelled, costs: Sequence[float]) -> float:
    """Measure mean average precision, over the classes of `test`, of one linear SVM per class.

    Features are divided by their norm + 1e-5; the loss is the squared hinge, positives weigh twice.
    C is chosen per class by the mean average precision of 3 folds, or 2 for a class with two
    examples; with a single example it is `FEW`. A class that only `test` has is ranked by a
    constant, one that `test` lacks is left out of the mean.

    Raises:
      UserError: a single class to learn from.
    """
    if len(np.unique(train.labels)) < 2:
        raise NotMeasurable("svm: the training data have labels of one class only")
    train_x, test_x = (
        x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-5) for x, _ in (train, test)
    )
    precisions = []
    # Threads cost more than they save on problems this small.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 2000 iterations are the protocol
        for c in np.unique(test.labels):
            positive = train.labels == c
            scores = np.zeros(len(test_x))
            if positive.any():
                cost = choose_cost(train_x, positive, costs)
                scores = _machine(cost).fit(train_x, positive).decision_function(test_x)
            precisions.append(average_precision(scores, test.labels == c))
    return float(np.mean(precisions))


def choose_cost(features: np.ndarray, positive: np.ndarray, costs: Sequence[float]) -> float:
    """Return the first of `costs` with the best mean average precision over folds of the rows.

    Args:
      features: (N, D).
      positive: (N,) bool.
      costs: values of C.
    """
    check_shapes("choose_cost: features (N, D), positive (N)", features, positive)
    folds = min(FOLDS, np.sum(positive), np.sum(~positive))
    if len(costs) == 1:
        return costs[0]
    if folds < 2:
        return FEW
    parts = list(StratifiedKFold(folds).split(features, positive))

    def score(cost: float) -> float:
        machines = ((_machine(cost).fit(features[a], positive[a]), b) for a, b in parts)
        precisions = (
            average_precision(m.decision_function(features[b]), positive[b]) for m, b in machines
        )
        return sum(precisions) / folds

    return max(costs, key=score)


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the precision-recall curve, with the best precision at that or a higher recall
    (PASCAL VOC since 2010). Equal scores are a single step of the curve.

    Args:
      scores: (N,), larger is more likely positive.
      positive: (N,) bool, at least one True.
    """
    check_shapes("average_precision: scores, positive (N)", scores, positive)
    precision, recall, _ = precision_recall_curve(positive, scores)  # from the largest recall down
    return float(np.sum(-np.diff(recall) * np.maximum.accumulate(precision[:-1])))


def _machine(cost: float) -> LinearSVC:
    return LinearSVC(
        C=cost,
        class_weight={True: 2, False: 1},
        penalty="l2",
        loss="squared_hinge",
        dual=True,
        tol=1e-4,
        max_iter=2000,
        intercept_scaling=1.0,
        random_state=0,
    )
