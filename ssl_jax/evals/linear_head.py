"""Linear classifiers of frozen features, and logistic regression fitted to its optimum."""

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from ssl_jax.evals.average_precision import mean_average_precision
from ssl_jax.evals.images import Labelled
from ssl_jax.evals.scores import accuracies, best_classes, guesses_of

SMALL = 2**24  # numbers in the features below which one thread is faster


def chosen_titles(name: str, title: str) -> dict[str, str]:
    """Return the titles of the numbers NAME_... of `LinearHead.chosen_by`."""
    return {f"{name}_top1": title, f"{name}_map": f"{title}, mean average precision"}


class LinearHead(NamedTuple):
    """logits = (x - mean) / deviation @ weight + bias, of features (N, D)."""

    weight: np.ndarray  # (D, C)
    bias: np.ndarray  # (C,)
    mean: np.ndarray | float = 0.0
    deviation: np.ndarray | float = 1.0

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return the logits (N, C) of each row."""
        return (features - self.mean) / self.deviation @ self.weight + self.bias

    def classes(self, features: np.ndarray) -> np.ndarray:
        """Return the most probable class (N,) of each row."""
        return self.logits(features).argmax(1)

    def scores(self, data: Labelled, name: str) -> dict[str, float]:
        """Return `NAME_top1` and the other `accuracies`; of data with several labels per image
        `NAME_map` and `NAME_11point`.
        """
        logits = self.logits(data.features)
        if data.labels.ndim == 2:
            return mean_average_precision(logits[:, : data.labels.shape[1]], data.labels, name)
        return accuracies(best_classes(logits, guesses_of(logits.shape[1])), data.labels, name)

    def chosen_by(self, data: Labelled, name: str) -> dict[str, float]:
        """Return the number to choose settings by: `NAME_top1`, or `NAME_map`."""
        if data.labels.ndim == 2:
            return {f"{name}_map": self.scores(data, name)[f"{name}_map"]}
        return {f"{name}_top1": self.accuracy(data)}

    @property
    def finite(self) -> bool:
        """True if the head is usable; the bias of a class without examples is -inf."""
        return bool(np.isfinite(self.weight).all() and not np.isnan(self.bias).any())

    def accuracy(self, data: Labelled) -> float:
        return float(np.mean(self.classes(data.features) == data.labels))


def regularisation_path(
    train: Labelled, inverse: Sequence[float], classes: int
) -> list[LinearHead]:
    """Fit logistic regression with each of the inverse penalties C, in this order, each starting
    from the previous solution; at most 1000 steps of L-BFGS. With several labels per image one
    regression per class, from the images of which it is known whether they show it; a class that
    all of them show, or none, has weight 0.
    """
    if train.labels.ndim == 2:
        return _one_per_class(train, inverse)
    return [head_of(model, classes) for model in _fitted(train, inverse)]


def logistic_regression(features: np.ndarray, labels: np.ndarray) -> LogisticRegression:
    """Fit logistic regression with an intercept and L2 penalty C = 1 to its optimum.

    Args:
      features: (N, D).
      labels: (N,) classes, at least two.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=1.0, max_iter=1000).fit(features, labels)
        if model.n_iter_.max() < model.max_iter:
            return model
        # Few images of many pixels: L-BFGS would take ten times as long, Newton's method does not.
        return LogisticRegression(C=1.0, solver="newton-cg").fit(features.astype(float), labels)


def head_of(model: LogisticRegression, classes: int) -> LinearHead:
    """Convert scikit-learn's model, which knows the classes with examples, to `classes` classes."""
    weight = np.zeros((model.coef_.shape[1], classes), np.float32)
    bias = np.full(classes, -np.inf, np.float32)  # a class without examples is never predicted
    if len(model.classes_) == 2:  # scikit-learn keeps the second class's logit alone
        weight[:, model.classes_[1]], bias[model.classes_] = model.coef_[0], (0, *model.intercept_)
    else:
        weight[:, model.classes_], bias[model.classes_] = model.coef_.T, model.intercept_
    return LinearHead(weight, bias)


def _fitted(train: Labelled, inverse: Sequence[float]) -> Iterator[LogisticRegression]:
    """Yield the same model, fitted with one C after another."""
    model = LogisticRegression(max_iter=1000, warm_start=True)
    # On small problems the threads of BLAS wait for each other longer than they work.
    threads = threadpool_limits(1 if train.features.size < SMALL else None)
    with threads, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 1000 are enough, or the protocol's
        for c in inverse:
            yield model.set_params(C=float(c)).fit(*train)


def _one_per_class(train: Labelled, inverse: Sequence[float]) -> list[LinearHead]:
    width, classes = train.features.shape[1], train.labels.shape[1]
    weights = np.zeros((len(inverse), width, classes), np.float32)
    biases = np.zeros((len(inverse), classes), np.float32)
    for c in range(classes):
        column = train.labels[:, c]
        labelled = column >= 0
        if len(np.unique(column[labelled])) < 2:
            continue
        rows = Labelled(train.features[labelled], column[labelled])
        for i, model in enumerate(_fitted(rows, inverse)):
            weights[i, :, c], biases[i, c] = model.coef_[0], model.intercept_[0]
    return [LinearHead(w, b) for w, b in zip(weights, biases, strict=True)]
