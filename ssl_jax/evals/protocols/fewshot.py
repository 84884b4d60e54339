"""Few-label linear classification: from n labels per class, a share of all labels, or those of a
fixed list.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from ssl_jax.core import config
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, Share
from ssl_jax.data.subset import draw_fraction, draw_labels
from ssl_jax.evals.base import AtLayer, Subject
from ssl_jax.evals.checks import check_several
from ssl_jax.evals.images import Labelled, Part
from ssl_jax.evals.linear_head import logistic_regression, regularisation_path
from ssl_jax.evals.lists import listed_rows
from ssl_jax.losses.shapes import check_shapes

DRAWS = 20


@dataclass(frozen=True, kw_only=True)
class FewShot(AtLayer):
    """Accuracy of linear classifiers from few labels, or with several labels per image their mean
    average precision; see `few_labels`.

    Attributes:
      shots: labels per class.
      fractions: shares of the training examples, drawn evenly over the classes (`draw_fraction`).
      lists: files that name the labelled examples (`lists.listed_rows`), which are read regardless
        of `max_train`. Without an evaluation set, the held-out examples are left out.
      draws: random draws of the labels, averaged; by default 20, and with more than 20 classes,
        which take longer and vary less, 400 / classes, at least 2. A list is not drawn.
    """

    titles: ClassVar[Mapping[str, str]] = {
        "fewshot1_top1": "linear classifier, 1 label per class",
        "fewshot{n}_top1": "linear classifier, {n} labels per class",
        "fewshot{share}pct_top1": "linear classifier, {share} % of the labels",
        "fewshot_{list}_top1": "linear classifier, labels of {list}",
        "fewshot1_map": "mean average precision, 1 image per class",
        "fewshot{n}_map": "mean average precision, {n} images per class",
        "fewshot{share}pct_map": "mean average precision, {share} % of the images",
        "fewshot_{list}_map": "mean average precision, images of {list}",
    }
    scores: ClassVar[tuple[str, ...]] = ("fewshot",)
    decides: ClassVar[tuple[str, ...]] = ("fewshot",)
    multi: ClassVar[bool] = True

    shots: tuple[Count, ...] = (1, 5, 10)
    fractions: tuple[Share, ...] = ()
    lists: tuple[str, ...] = ()
    draws: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.shots + self.fractions + self.lists:
            raise UserError("fewshot: give shots, fractions or lists")

    def unused(self) -> Mapping[str, str]:
        has_draws = self.shots or self.fractions
        return {} if has_draws else {"draws": "lists are not drawn; give shots or fractions"}

    def check(self, subject: Subject) -> None:
        super().check(subject)
        for path in self.lists:
            listed_rows(path, subject.images.train.source)

    def measure(self, subject: Subject) -> dict[str, float]:
        train, test = subject.train(self), subject.test(self)
        draws = range(self.draws or min(DRAWS, max(2, 400 // subject.classes)))
        check_shots(self, self.shots, train)
        scores, measure = {}, "map" if subject.multi else "top1"
        for n in self.shots:
            rows = (draw_labels(train.labels, n, 0, draw) for draw in draws)
            scores[f"fewshot{n}_{measure}"] = few_labels(train, test, rows).mean
        for share in self.fractions:
            rows = (draw_fraction(train.labels, share, 0, draw) for draw in draws)
            scores[f"fewshot{100 * share:g}pct_{measure}"] = few_labels(train, test, rows).mean
        for path in self.lists:
            accuracy = few_labels(train, test, [self._listed(subject, path)]).mean
            scores[f"fewshot_{Path(path).stem}_{measure}"] = accuracy
        return scores

    def _listed(self, subject: Subject, path: str) -> Labelled:
        (source, _), held_out = subject.images.train, subject.images.test
        rows = listed_rows(path, source)
        if held_out.source is source:
            rows = np.setdiff1d(rows, held_out.rows)
        return subject.labelled_features(Part(source, rows), [subject.probe_of(self)])[0]


class Accuracy(NamedTuple):
    """Test accuracy over the label draws.

    Attributes:
      mean: mean over the draws.
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
    """Return labels per class -> accuracy of `few_labels` over random draws of so many labels.

    A class with fewer labels contributes all of them.

    Args:
      train, test: (N, D) and (M, D).
      train_labels, test_labels: (N,) and (M,) integers.
      shots: labels per class.
      draws: labelled subsets per number of shots.
      seed: seed of the draws.

    Raises:
      UserError: fewer than two classes, or shots or draws below 1.
    """
    expected = (
        "fewshot_linear: train (N, D), train_labels (N) int, test (M, D), test_labels (M) int"
    )
    check_shapes(expected, train, train_labels, test, test_labels)
    _check(shots, draws)
    sets = Labelled(train, train_labels), Labelled(test, test_labels)
    return {
        n: few_labels(*sets, (draw_labels(train_labels, n, seed, d) for d in range(draws)))
        for n in shots
    }


def few_labels(
    train: Labelled, test: Labelled, subsets: Iterable[np.ndarray | Labelled]
) -> Accuracy:
    """Measure the accuracy on `test` of linear classifiers trained on each of the labelled subsets.

    With several labels per image there is one classifier per class, learned from the images of the
    subset of which it is known whether they show it, and the result is the mean average precision
    (`mean_average_precision`).

    Features are standardised with the mean and standard deviation of all training rows (which needs
    no labels); the classifier is logistic regression with an intercept and L2 penalty C = 1.

    Args:
      subsets: rows of `train`, or examples of their own.

    Raises:
      UserError: a subset of fewer than two classes.
    """
    scaler = StandardScaler().fit(train.features)
    scaled, scaled_test = scaler.transform(train.features), scaler.transform(test.features)

    def accuracy(subset: np.ndarray | Labelled) -> float:
        if isinstance(subset, Labelled):
            x, labels = scaler.transform(subset.features), subset.labels
        else:
            x, labels = scaled[subset], train.labels[subset]
        if labels.ndim == 2:
            (head,) = regularisation_path(Labelled(x, labels), [1.0], labels.shape[1])
            return head.scores(Labelled(scaled_test, test.labels), "fewshot")["fewshot_map"]
        check_several(labels, "few-label linear")
        test_x = scaled_test
        if x.shape[1] > len(x):
            # The solution lies in the span of the rows, and its penalty is the same in any basis.
            basis, _ = np.linalg.qr(x.T)
            x, test_x = x @ basis, scaled_test @ basis
        model = logistic_regression(x, labels)
        return float(np.mean(model.predict(test_x) == test.labels))

    # Threads cost more than they save on problems this small.
    with threadpool_limits(1), warnings.catch_warnings():
        # scikit-learn mistakes one label per class for a regression.
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        values = np.array([accuracy(subset) for subset in subsets])
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return Accuracy(float(values.mean()), float(error), values)


def check_shots(protocol: AtLayer, shots: tuple[int, ...], train: Labelled) -> None:
    """Check that some class has as many labels as the largest of `shots`.

    Raises:
      UserError: no class has, and `shots` is not the default.
    """
    most, default = _most(train.labels), config.defaults(type(protocol))["shots"]
    if shots != default and max(shots, default=0) > most:
        raise UserError(
            f"{protocol.name()}: shots {list(shots)}: no class has more "
            f"than {most} labelled training examples"
        )


def _most(labels: np.ndarray) -> int:
    """Return the size of the largest class."""
    counts = np.bincount(labels) if labels.ndim == 1 else (labels == 1).sum(axis=0)
    return int(counts.max())


def _check(shots: Sequence[int], draws: int) -> None:
    if draws < 1 or min(shots, default=0) < 1:
        raise UserError(
            f"few-label linear: shots {list(shots)} and draws {draws} must be 1 or more"
        )
