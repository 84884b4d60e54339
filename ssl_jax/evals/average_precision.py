"""Average precision of rankings: the scores of data with several labels per image."""

import numpy as np
from sklearn.metrics import precision_recall_curve

from ssl_jax.evals.checks import NotMeasurable
from ssl_jax.losses.shapes import check_shapes

LEVELS = np.arange(11) / 10  # recalls of the 11-point average


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the precision-recall curve, with the best precision at that or a higher recall
    (PASCAL VOC since 2010). Equal scores are a single step of the curve.

    Args:
      scores: (N,), larger is more likely positive.
      positive: (N,) bool, at least one True.
    """
    recall, precision = _envelope(scores, positive)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def eleven_points(scores: np.ndarray, positive: np.ndarray) -> float:
    """Mean of the best precision at a recall of at least 0, 0.1, ..., 1 (PASCAL VOC 2007).

    Arguments are those of `average_precision`.
    """
    recall, precision = _envelope(scores, positive)
    # A recall of 3/10 is at least 0.3, whatever its rounding.
    first = np.searchsorted(recall, LEVELS - 1e-9)
    return float(np.mean(precision[first]))


def _envelope(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the recalls (n,), increasing, and the best precision at each or a higher one."""
    check_shapes("average_precision: scores, positive (N)", scores, positive)
    precision, recall, _ = precision_recall_curve(positive, scores)  # from the largest recall down
    best = np.maximum.accumulate(precision[:-1])
    return recall[:-1][::-1], best[::-1]


def precision_titles(name: str, title: str) -> dict[str, str]:
    """Return the titles of the numbers of `mean_average_precision`, which start with `title`."""
    return {
        f"{name}_map": f"{title}, mean average precision",
        f"{name}_11point": f"{title}, 11-point average precision",
    }


def mean_average_precision(scores: np.ndarray, targets: np.ndarray, name: str) -> dict[str, float]:
    """Average over the classes: `NAME_map` of exact areas, `NAME_11point` of `eleven_points`.

    A class without a positive is left out of the mean, and from the ranking of a class the images
    of which it is not known whether they show it. The numbers are NaN if a score is not finite, or
    if at least two images all have the same scores.

    Args:
      scores: (N, C), larger is more likely.
      targets: (N, C): 1 for a class that the image shows, 0 for others, -1 if that is not known.

    Raises:
      NotMeasurable: no class has a positive.
    """
    check_shapes("mean_average_precision: scores, targets (N, C)", scores, targets)
    classes = np.flatnonzero((targets == 1).any(axis=0))
    if not len(classes):
        raise NotMeasurable(f"{name}: no evaluation image shows any class")
    names = f"{name}_map", f"{name}_11point"
    constant = len(scores) > 1 and np.all(scores == scores[:1])
    if constant or not np.isfinite(scores[:, classes]).all():
        return dict.fromkeys(names, float("nan"))
    pairs = [(scores[m, c], targets[m, c] == 1) for c in classes if (m := targets[:, c] >= 0).any()]
    exact = float(np.mean([average_precision(*pair) for pair in pairs]))
    return {names[0]: exact, names[1]: float(np.mean([eleven_points(*pair) for pair in pairs]))}
