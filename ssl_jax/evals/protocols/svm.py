"""Low-shot linear SVMs on frozen features, the protocol of VOC07 (Goyal et al., 1905.01235)."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, Positive
from ssl_jax.data.subset import draw_labels
from ssl_jax.evals.average_precision import average_precision, eleven_points, precision_titles
from ssl_jax.evals.base import AtLayer, Subject
from ssl_jax.evals.checks import NotMeasurable, check_several
from ssl_jax.evals.images import Labelled
from ssl_jax.evals.protocols.fewshot import check_shots
from ssl_jax.losses.shapes import check_shapes

FOLDS = 3
FEW = 1.0  # C of a class with a single example, which cannot be split into folds


@dataclass(frozen=True, kw_only=True)
class Svm(AtLayer):
    """Mean over the classes of the average precision of one-vs-rest SVMs; see `svm_scores`. Of data
    with several labels per image also the 11-point average of VOC 2007, `svm_11point`.

    Attributes:
      shots: labels per class; a class with fewer contributes all of them. Of data with several
        labels per image, each class has its own draw of so many images that show it, and (C - 1)
        times as many that do not.
      draws: random draws of those labels, averaged.
      full: also measure with all labels.
      costs: values of C to choose from.
    """

    titles: ClassVar[Mapping[str, str]] = {
        **precision_titles("svm", "linear SVMs, all labels"),
        **precision_titles("svm1", "linear SVMs, 1 label per class"),
        **precision_titles("svm{k}", "linear SVMs, {k} labels per class"),
    }
    scores: ClassVar[tuple[str, ...]] = ("svm",)
    decides: ClassVar[tuple[str, ...]] = ("svm",)
    multi: ClassVar[bool] = True

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
        scores: dict[str, Any] = {}
        for k in self.shots:
            samples = [_sample(train, k, draw) for draw in range(self.draws)]
            results = [svm_scores(sample, test, self.costs, False) for sample in samples]
            scores |= {f"svm{k}_{n}": np.mean([r[n] for r in results]) for n in results[0]}
        if self.full:
            scores |= {f"svm_{n}": x for n, x in svm_scores(train, test, self.costs).items()}
        return {name: float(score) for name, score in scores.items()}


def _sample(train: Labelled, k: int, draw: int) -> Labelled:
    """Draw the labels of a class from k examples of it and, of each other class, as many."""
    if train.labels.ndim == 1:
        return train.rows(draw_labels(train.labels, k, 0, draw))
    rng = np.random.default_rng([0, k, draw])
    table = np.full(train.labels.shape, -1, np.int8)
    classes = train.labels.shape[1]
    for c, column in enumerate(train.labels.T):
        for value, count in ((1, k), (0, (classes - 1) * k)):
            table[rng.permutation(np.flatnonzero(column == value))[:count], c] = value
    return Labelled(train.features, table)


def svm_map(train: Labelled, test: Labelled, costs: Sequence[float]) -> float:
    """Return the mean average precision of `svm_scores`."""
    return svm_scores(train, test, costs)["map"]


def svm_scores(
    train: Labelled, test: Labelled, costs: Sequence[float], unknown: bool = True
) -> dict[str, float]:
    """Measure mean average precision, over the classes of `test`, of one linear SVM per class: by
    `average_precision` and, of tables of labels, by `eleven_points`.

    Features are divided by their norm + 1e-5; the loss is the squared hinge, positives weigh twice.
    C is chosen per class by the mean average precision of 3 folds, or 2 for a class with two
    examples; with a single example it is `FEW`. A class that only `test` has is ranked by a
    constant, one that `test` lacks is left out of the mean. Test images of which it is not known
    whether they show a class are left out of its ranking.

    Args:
      unknown: learn a class also from training images of which it is not known whether they show
        it, as images that do not (the authors' `train_svm_kfold.py`).

    Raises:
      UserError: a single class to learn from.
    """
    check_several(train.labels, "svm")
    train_x, test_x = (
        x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-5) for x, _ in (train, test)
    )
    rankings = []
    # Threads cost more than they save on problems this small.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 2000 iterations are the protocol
        for c in _classes(test.labels):
            column, truth = _column(train.labels, c), _column(test.labels, c)
            rows = np.full(len(column), True) if unknown else column >= 0
            positive, scores = column[rows] == 1, np.zeros(len(test_x))
            if positive.any() and not positive.all():
                cost = choose_cost(train_x[rows], positive, costs)
                scores = _machine(cost).fit(train_x[rows], positive).decision_function(test_x)
            rankings.append((scores[truth >= 0], truth[truth >= 0] == 1))
    if not rankings:
        raise NotMeasurable("svm: no evaluation image shows any class")
    averages = {"map": average_precision}
    if test.labels.ndim == 2:
        averages["11point"] = eleven_points
    return {n: float(np.mean([f(*pair) for pair in rankings])) for n, f in averages.items()}


def _classes(labels: np.ndarray) -> np.ndarray:
    """Return the classes that some example has."""
    return np.unique(labels) if labels.ndim == 1 else np.flatnonzero((labels == 1).any(axis=0))


def _column(labels: np.ndarray, c: int) -> np.ndarray:
    """Return 1 for the examples of a class, 0 for others, -1 where that is not known: (N,)."""
    return (labels == c).astype(np.int8) if labels.ndim == 1 else labels[:, c]


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
