"""Accuracies of predicted classes."""

import numpy as np


def accuracies(predicted: np.ndarray, labels: np.ndarray, name: str) -> dict[str, float]:
    """`NAME_top1`, the share that is right, and `NAME_mean_per_class`, the mean of the shares of
    each class, over the classes that occur.

    Args:
      predicted, labels: (N,) integers from 0, N > 0.
    """
    right = predicted == labels
    examples = np.bincount(labels)
    there = examples > 0
    shares = np.bincount(labels, weights=right)[there] / examples[there]
    return {f"{name}_top1": float(right.mean()), f"{name}_mean_per_class": float(shares.mean())}
