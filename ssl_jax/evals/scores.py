"""Accuracies of predicted classes."""

import numpy as np

from ssl_jax.losses.shapes import check_shapes

GUESSES = 5
LEAST = 10  # examples that do not all get the same prediction by chance


def guesses_of(classes: int) -> int:
    """Return the number of guesses to score: five, or one if there are at most five classes."""
    return GUESSES if classes > GUESSES else 1


def best_classes(scores: np.ndarray, count: int) -> np.ndarray:
    """Return the `count` classes (N, count) int32 of the greatest scores (N, C), greatest first;
    ties go to the lower class. Instead of a class of score -inf, which is never predicted, -1.
    """
    check_shapes("best_classes: scores (N, C)", scores)
    rest, rows = np.array(scores, np.float32), np.arange(len(scores))
    best = np.empty((len(scores), count), np.int32)
    for place in range(count):
        chosen = rest.argmax(axis=1)
        best[:, place] = np.where(rest[rows, chosen] == -np.inf, -1, chosen)
        rest[rows, chosen] = -np.inf
    return best


def accuracy_titles(name: str, title: str) -> dict[str, str]:
    """Return the titles of the `accuracies` NAME_..., all of which start with `title`."""
    return {
        f"{name}_top1": title,
        f"{name}_top5": f"{title}, first 5 guesses",
        f"{name}_mean_per_class": f"{title}, mean over classes",
    }


def accuracies(guesses: np.ndarray, labels: np.ndarray, name: str) -> dict[str, float]:
    """Score guesses: `NAME_top1` is the share of first guesses that are right,
    `NAME_mean_per_class` the mean of that share per class, over the classes that occur, and, with
    five guesses, `NAME_top5` the share of examples whose class is among them. The numbers are NaN
    if at least `LEAST` examples of several classes all get the same first guess.

    Args:
      guesses: (N,), or (N, 5) with the likeliest first.
      labels: (N,) integers from 0, N > 0.
    """
    guesses = guesses[:, None] if guesses.ndim == 1 else guesses
    check_shapes("accuracies: guesses (N, n), labels (N) int", guesses, labels)
    correct = guesses == labels[:, None]
    first, examples = correct[:, 0], np.bincount(labels)
    present = examples > 0
    shares = np.bincount(labels, weights=first)[present] / examples[present]
    scores = {f"{name}_top1": float(first.mean()), f"{name}_mean_per_class": float(shares.mean())}
    if correct.shape[1] == GUESSES:
        scores[f"{name}_top5"] = float(correct.any(axis=1).mean())
    constant = np.ptp(guesses[:, 0]) == 0
    if constant and len(labels) >= LEAST and present.sum() > 1:
        return dict.fromkeys(scores, float("nan"))
    return scores
