"""Accuracies of predicted classes."""

import numpy as np

GUESSES = 5
LEAST = 10  # examples of which not all get the same answer by chance


def guesses_of(classes: int) -> int:
    """How many guesses are looked at: five, or one where five would be all, or nearly."""
    return GUESSES if classes > GUESSES else 1


def accuracies(guesses: np.ndarray, labels: np.ndarray, name: str) -> dict[str, float]:
    """`NAME_top1`, the share of first guesses that are right; `NAME_mean_per_class`, the mean of
    that share of each class, over the classes that occur; with five guesses `NAME_top5`, the share
    of examples whose class is among them. Where `LEAST` examples or more of several classes all get
    one answer, nothing was told apart: the numbers are not finite.

    Args:
      guesses: (N,), or (N, 5) with the likeliest first.
      labels: (N,) integers from 0, N > 0.
    """
    right = guesses.reshape(len(labels), -1) == labels[:, None]
    first, examples = right[:, 0], np.bincount(labels)
    there = examples > 0
    shares = np.bincount(labels, weights=first)[there] / examples[there]
    found = {f"{name}_top1": float(first.mean()), f"{name}_mean_per_class": float(shares.mean())}
    if right.shape[1] == GUESSES:
        found[f"{name}_top5"] = float(right.any(axis=1).mean())
    constant = np.ptp(guesses.reshape(len(labels), -1)[:, 0]) == 0
    if constant and len(labels) >= LEAST and there.sum() > 1:
        return dict.fromkeys(found, float("nan"))
    return found
