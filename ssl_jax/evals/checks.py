"""Checks for labels, features and numbers that allow no measurement."""

import math
from collections.abc import Mapping

import numpy as np

from ssl_jax.core.errors import UserError

CONSTANT = 1e-5  # of the largest feature: rounding, not a difference between images
ROWS = 1024  # compared at once


class NotMeasurable(UserError):
    """The data, or the network's outputs for them, do not allow a measurement; no setting is wrong.

    Training skips the protocol and logs this reason; a command that requested it by name fails.
    """


class DoesNotApply(NotMeasurable):
    """The method or the data lack what a protocol measures: a text tower, masks, labels."""


def check_finite(values: np.ndarray, what: str) -> None:
    """Check that all rows are finite.

    Raises:
      NotMeasurable: a row of floats that is not finite.
    """
    if not np.issubdtype(values.dtype, np.floating) and values.dtype.name != "bfloat16":
        return
    axes = tuple(range(1, values.ndim))
    broken = int(np.sum(~np.isfinite(values.astype(np.float32)).all(axis=axes)))
    if broken:
        raise NotMeasurable(f"{what} of {broken} of {len(values)} images are not finite")


def varied(features: np.ndarray) -> bool:
    """Return whether features (N, ...) differ between images, beyond rounding."""
    first = features[:1].astype(np.float32)
    for start in range(0, len(features), ROWS):
        rows = features[start : start + ROWS].astype(np.float32)
        if np.abs(rows - first).max(initial=0) > CONSTANT * np.abs(first).max(initial=0):
            return True
    return False


def check_varied(features: np.ndarray, what: str) -> None:
    """Check that features (N, ...) differ between images.

    Raises:
      NotMeasurable: they are the same for all of several images.
    """
    if len(features) > 1 and not varied(features):
        kind = "the same" if features[0].any() else "zero"
        raise NotMeasurable(f"{what} of all {len(features)} images are {kind}")


def check_count(count: int, least: int) -> None:
    """Check that there are at least `least` images.

    Raises:
      NotMeasurable: there are fewer.
    """
    if count < least:
        raise NotMeasurable(f"{count} readable evaluation image(s); at least {least} are needed")


def check_classes(train: np.ndarray, test: np.ndarray) -> None:
    """Check that labels (N,) and (M,), -1 for none, allow a score.

    Raises:
      NotMeasurable: fewer than two classes to learn from, or none of them in the test set.
    """
    classes = np.unique(train[train >= 0])
    if len(classes) < 2:
        raise NotMeasurable("the training data have labels of one class only; two are needed")
    if not np.isin(test[test >= 0], classes).any():
        raise NotMeasurable("no evaluation example is of a class that the training data have")


def check_several(labels: np.ndarray, what: str) -> None:
    """Check that labels (N,) are of several classes; a table of labels (N, C) may be any.

    Raises:
      NotMeasurable: they are of one class; the message starts with `what`.
    """
    if labels.ndim == 1 and len(np.unique(labels)) < 2:
        raise NotMeasurable(f"{what}: the training data have labels of one class only")


def check_targets(train: np.ndarray, test: np.ndarray) -> None:
    """Check that tables of labels (N, C) and (M, C), 1 for a class that an image shows, 0 for
    others and -1 if that is not known, allow a score.

    Raises:
      NotMeasurable: no class is shown by some training images only, or none of those by a test
        image.
    """
    learned = (train == 1).any(axis=0) & (train == 0).any(axis=0)
    if not learned.any():
        raise NotMeasurable("every class is shown by all training images or by none")
    if not (test[:, learned[: test.shape[1]]] == 1).any():
        raise NotMeasurable("no evaluation image shows a class that some training images show")


def not_finite(numbers: Mapping[str, float]) -> list[str]:
    """Return the names of the numbers that are not finite."""
    return [name for name, value in numbers.items() if not math.isfinite(value)]
