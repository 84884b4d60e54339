"""Few-label linear classification: what features are worth when only n labels a class are known."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from ssl_jax.core.errors import UserError
from ssl_jax.evals.base import AtLayer, Subject


@dataclass(frozen=True, kw_only=True)
class FewShot(AtLayer):
    """Accuracy of linear classifiers from few labels a class; see `fewshot_linear`.

    Attributes:
      shots: labels a class.
      draws: random draws of those labels, averaged; fewer with more than 20 classes, which take
        longer and vary less: 400 / classes, at least 2.
    """

    shots: tuple[int, ...] = (1, 5, 10)
    draws: int = 20

    def __post_init__(self) -> None:
        _check(self.shots, self.draws)

    def measure(self, subject: Subject) -> dict[str, float]:
        draws = min(self.draws, max(2, 400 // subject.classes))
        found = fewshot_linear(*subject.train(self), *subject.test(self), self.shots, draws)
        return {f"fewshot{n}_top1": accuracy.mean for n, accuracy in found.items()}


class Accuracy(NamedTuple):
    """Test accuracy over the label draws.

    Attributes:
      mean: over the draws.
      standard_error: of the mean, over the draws (not over test images); 0 for a single draw.
      accuracies: (draws,), in the order of the draws, so that two feature sets can be paired.
    """

    mean: float
    standard_error: float
    accuracies: np.ndarray


def draw_labels(labels: np.ndarray, n: int, seed: int, draw: int) -> np.ndarray:
    """Rows of a random labelled subset: n of each class, or all of a class that has fewer.

    A function of the arguments alone: features of the same rows are compared on the same draws.
    """
    rng = np.random.default_rng([seed, n, draw])
    rows = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    return np.concatenate([rng.permutation(r)[:n] for r in rows])


def fewshot_linear(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    shots: Sequence[int] = (1, 5, 10),
    draws: int = 20,
    seed: int = 0,
) -> dict[int, Accuracy]:
    """Labels a class -> accuracy of a linear classifier that saw so many.

    Features are standardised with the mean and standard deviation of all training rows (which needs
    no label); the classifier is logistic regression with an intercept and L2 penalty C = 1. A class
    with fewer labels than asked for gives all that it has.

    Args:
      train, test: (N, D) and (M, D).
      train_labels, test_labels: (N,) and (M,) integers.
      shots: labels a class.
      draws: labelled subsets a number of shots.
      seed: of the draws.

    Raises:
      UserError: fewer than two classes, or shots or draws below 1.
    """
    if len(np.unique(train_labels)) < 2:
        raise UserError(
            "few-label linear needs labels of at least two classes in the training data"
        )
    _check(shots, draws)
    scaler = StandardScaler().fit(train)
    train, test = scaler.transform(train), scaler.transform(test)

    def accuracy(n: int, draw: int) -> float:
        rows = draw_labels(train_labels, n, seed, draw)
        seen, asked = train[rows], test
        if seen.shape[1] > len(rows):
            # The solution lies in the span of the rows, and its penalty is the same in any basis.
            basis, _ = np.linalg.qr(seen.T)
            seen, asked = seen @ basis, test @ basis
        model = LogisticRegression(C=1.0, max_iter=1000).fit(seen, train_labels[rows])
        return float(np.mean(model.predict(asked) == test_labels))

    out = {}
    # Threads cost more than they bring on problems this small.
    with threadpool_limits(1), warnings.catch_warnings():
        # scikit-learn takes one label a class for a regression.
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        for n in shots:
            values = np.array([accuracy(n, draw) for draw in range(draws)])
            error = values.std(ddof=1) / np.sqrt(draws) if draws > 1 else 0.0
            out[n] = Accuracy(float(values.mean()), float(error), values)
    return out


def _check(shots: Sequence[int], draws: int) -> None:
    if draws < 1 or min(shots, default=0) < 1:
        raise UserError(
            f"few-label linear: shots {list(shots)} and draws {draws} must be 1 or more"
        )
