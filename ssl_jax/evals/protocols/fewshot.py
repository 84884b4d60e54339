"""Few-label linear classification: what features are worth when few labels are known: n a class, a
share of all, or those of a fixed list.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from ssl_jax.core import config
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, Share
from ssl_jax.data.subset import draw_fraction, draw_labels
from ssl_jax.evals.base import AtLayer, Labelled, Part, Subject
from ssl_jax.evals.checks import NotMeasurable
from ssl_jax.evals.lists import listed_rows

DRAWS = 20


@dataclass(frozen=True, kw_only=True)
class FewShot(AtLayer):
    """Accuracy of linear classifiers from few labels; see `few_labels`.

    Attributes:
      shots: labels a class.
      fractions: shares of the training examples, drawn evenly over the classes (`draw_fraction`).
      lists: files that name the labelled examples (`lists.listed_rows`), which are read whatever
        `max_train` is. Without an evaluation set those that are held out for it are left out.
      draws: random draws of the labels, averaged; by default 20, and with more than 20 classes,
        which take longer and vary less, 400 / classes, at least 2. A list is no draw.
    """

    shots: tuple[Count, ...] = (1, 5, 10)
    fractions: tuple[Share, ...] = ()
    lists: tuple[str, ...] = ()
    draws: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.shots + self.fractions + self.lists:
            raise UserError("fewshot: give shots, fractions or lists")

    def unused(self) -> Mapping[str, str]:
        drawn = self.shots or self.fractions
        return {} if drawn else {"draws": "lists are not drawn; give shots or fractions"}

    def check(self, subject: Subject) -> None:
        super().check(subject)
        for path in self.lists:
            listed_rows(path, subject.images.train.source)

    def measure(self, subject: Subject) -> dict[str, float]:
        train, test = subject.train(self), subject.test(self)
        draws = range(self.draws or min(DRAWS, max(2, 400 // subject.classes)))
        check_shots(self, self.shots, train)
        found = {}
        for n in self.shots:
            rows = (draw_labels(train.labels, n, 0, draw) for draw in draws)
            found[f"fewshot{n}_top1"] = few_labels(train, test, rows).mean
        for share in self.fractions:
            rows = (draw_fraction(train.labels, share, 0, draw) for draw in draws)
            found[f"fewshot{100 * share:g}pct_top1"] = few_labels(train, test, rows).mean
        for path in self.lists:
            accuracy = few_labels(train, test, [self._listed(subject, path)]).mean
            found[f"fewshot_{Path(path).stem}_top1"] = accuracy
        return found

    def _listed(self, subject: Subject, path: str) -> Labelled:
        (source, _), held_out = subject.images.train, subject.images.test
        rows = listed_rows(path, source)
        if held_out.source is source:
            rows = np.setdiff1d(rows, held_out.rows)
        return subject.known(Part(source, rows), [subject.probe_of(self)])[0]


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


def fewshot_linear(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    shots: Sequence[int] = (1, 5, 10),
    draws: Count = 20,
    seed: int = 0,
) -> dict[int, Accuracy]:
    """Labels a class -> accuracy of `few_labels` over random draws of so many.

    A class with fewer labels than asked for gives all that it has.

    Args:
      train, test: (N, D) and (M, D).
      train_labels, test_labels: (N,) and (M,) integers.
      shots: labels a class.
      draws: labelled subsets a number of shots.
      seed: of the draws.

    Raises:
      UserError: fewer than two classes, or shots or draws below 1.
    """
    _check(shots, draws)
    sets = Labelled(train, train_labels), Labelled(test, test_labels)
    return {
        n: few_labels(*sets, (draw_labels(train_labels, n, seed, d) for d in range(draws)))
        for n in shots
    }


def few_labels(
    train: Labelled, test: Labelled, subsets: Iterable[np.ndarray | Labelled]
) -> Accuracy:
    """Accuracy on `test` of the linear classifiers that saw each of some labelled subsets.

    Features are standardised with the mean and standard deviation of all training rows (which needs
    no label); the classifier is logistic regression with an intercept and L2 penalty C = 1.

    Args:
      subsets: rows of `train`, or examples of their own.

    Raises:
      UserError: a subset of fewer than two classes.
    """
    scaler = StandardScaler().fit(train.features)
    scaled, asked = scaler.transform(train.features), scaler.transform(test.features)

    def accuracy(subset: np.ndarray | Labelled) -> float:
        if isinstance(subset, Labelled):
            seen, labels = scaler.transform(subset.features), subset.labels
        else:
            seen, labels = scaled[subset], train.labels[subset]
        if len(np.unique(labels)) < 2:
            raise NotMeasurable(
                "few-label linear needs labels of at least two classes in the training data"
            )
        questions = asked
        if seen.shape[1] > len(seen):
            # The solution lies in the span of the rows, and its penalty is the same in any basis.
            basis, _ = np.linalg.qr(seen.T)
            seen, questions = seen @ basis, asked @ basis
        model = LogisticRegression(C=1.0, max_iter=1000).fit(seen, labels)
        return float(np.mean(model.predict(questions) == test.labels))

    # Threads cost more than they bring on problems this small.
    with threadpool_limits(1), warnings.catch_warnings():
        # scikit-learn takes one label a class for a regression.
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        values = np.array([accuracy(subset) for subset in subsets])
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return Accuracy(float(values.mean()), float(error), values)


def check_shots(protocol: AtLayer, shots: tuple[int, ...], train: Labelled) -> None:
    """
    Raises:
      UserError: more labels a class than any class has, unless that is by default.
    """
    most, default = int(np.bincount(train.labels).max()), config.defaults(type(protocol))["shots"]
    if shots != default and max(shots, default=0) > most:
        raise UserError(
            f"{type(protocol).__name__.lower()}: shots {list(shots)}: no class has more "
            f"than {most} labelled training examples"
        )


def _check(shots: Sequence[int], draws: int) -> None:
    if draws < 1 or min(shots, default=0) < 1:
        raise UserError(
            f"few-label linear: shots {list(shots)} and draws {draws} must be 1 or more"
        )
