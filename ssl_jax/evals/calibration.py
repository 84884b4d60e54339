"""Confidences of a classifier: their temperature, their calibration error, and an interval of its
accuracy.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax

from ssl_jax.losses.shapes import check_shapes

LOWEST, HIGHEST = 0.05, 20.0  # temperatures that are tried
BINS = 15  # of the calibration error, as in the paper


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


def log_loss(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Return the mean cross-entropy of `logits / temperature`, (N, C), and labels (N,), in nats; of
    labels (N, C), with -1 where they are not known, that of the known binary ones.
    """
    if labels.ndim == 2:
        check_shapes("log_loss: logits, labels (N, C)", logits, labels)
        known = labels >= 0
        z = logits[known] / temperature
        return float(np.mean(np.logaddexp(0, z) - labels[known] * z))
    check_shapes("log_loss: logits (N, C), labels (N) int", logits, labels)
    rows = np.arange(len(labels))
    return float(-log_softmax(logits / temperature, axis=1)[rows, labels].mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature T for which `softmax(logits / T)`, or with labels (N, C)
    `sigmoid(logits / T)`, fits the labels best (Guo et al. 2017, arXiv:1706.04599, section 4.2),
    between `LOWEST` and `HIGHEST`.

    Unlike in the paper, log T has a standard normal prior: it matters for a few examples only, all
    of which may be classified correctly, where the best T alone would be 0.

    Args:
      logits: (N, C), N > 0 and C > 1.
      labels: (N,) integers from 0 to C - 1, or (N, C) of 0, 1 and -1, see `log_loss`.
    """
    if labels.ndim == 1:
        check_shapes("fit_temperature: logits (N, C), labels (N) int", logits, labels)
    logits = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        total = len(labels) * log_loss(logits, labels, float(np.exp(log_temperature)))
        return total + log_temperature**2 / 2

    bounds = np.log([LOWEST, HIGHEST])
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def probabilities(
    logits: np.ndarray, temperature: float = 1.0, several: bool = False
) -> np.ndarray:
    """Return `softmax(logits / temperature)`, (N, C) float64; `sigmoid` if an image may show
    several classes.
    """
    if several:
        return expit(logits.astype(np.float64) / temperature)  # type: ignore[no-any-return]
    return softmax(logits.astype(np.float64) / temperature, axis=1)  # type: ignore[no-any-return]


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Return the expected calibration error: the mean of |accuracy - mean confidence| over `bins`
    equal intervals (a, b] of the confidence, weighted by their examples (arXiv:1706.04599, eq. 3).

    Args:
      confidence: (N,), probability of the predicted class, N > 0.
      correct: (N,) bool, whether the predicted class is the label.
    """
    check_shapes("calibration_error: confidence (N), correct (N)", confidence, correct)
    number = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = np.bincount(number, weights=correct - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def wilson(correct: int, total: int) -> Interval:
    """Return Wilson's (1927) 95 % interval of an accuracy, `correct` of `total` > 0 examples."""
    z = 1.959963984540054
    share, spread = correct / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z * np.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return Interval(float(middle - half), float(middle + half))
