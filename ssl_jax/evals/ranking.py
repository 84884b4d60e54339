"""Rankings of a database of images by their similarity to queries, and whitening of descriptors."""

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.preprocessing import normalize

from ssl_jax.core.errors import UserError
from ssl_jax.evals.checks import NotMeasurable
from ssl_jax.losses.shapes import check_shapes

TINY = 1e-5  # of the largest variance: the least that whitening divides by


def trapezoid_precision(ranks: np.ndarray, positives: int) -> float:
    """Area below the precision-recall curve by the trapezoid rule, as in the packages of Oxford 5k,
    Holidays and Copydays.

    Args:
      ranks: places (n,) of the positives in the ranking, from 0, increasing.
      positives: number of positives, those that are not ranked included.
    """
    hits = np.arange(len(ranks))
    before = np.where(ranks == 0, 1.0, hits / np.maximum(ranks, 1))
    return float(np.sum((before + (hits + 1) / (np.asarray(ranks) + 1)) / (2 * positives)))


def revisited(
    similarity: np.ndarray,
    truth: Sequence[Mapping[str, Sequence[int]]],
    at: Sequence[int] = (1, 5, 10),
) -> dict[str, float]:
    """Return the numbers of revisited Oxford and Paris (1803.11285): mean average precision `D_map`
    and mean precision at k `D_mp1`, ..., for D easy, medium and hard.

    Easy: the images that are easy are positives, the hard ones are ignored. Medium: both are
    positives. Hard: the hard ones are positives, the easy ones are ignored. Junk images are ignored
    in all three: they are taken out of the ranking. A query without a positive does not count.

    Args:
      similarity: (queries, images).
      truth: for each query the images that are "easy", "hard" and "junk".

    Raises:
      NotMeasurable: no query has a positive.
    """
    check_shapes("revisited: similarity (Q, N)", similarity)
    order = np.argsort(-similarity, axis=1, kind="stable")
    kinds = {
        "easy": (("easy",), ("junk", "hard")),
        "medium": (("easy", "hard"), ("junk",)),
        "hard": (("hard",), ("junk", "easy")),
    }
    numbers: dict[str, float] = {}
    for name, (wanted, ignored) in kinds.items():
        rows = []
        for ranking, images in zip(order, truth, strict=True):
            positives = np.array([i for kind in wanted for i in images[kind]], np.int64)
            if not len(positives):
                continue
            out = [i for kind in ignored for i in images[kind]]
            ranks = np.flatnonzero(np.isin(ranking[~np.isin(ranking, out)], positives))
            last = [min(k, ranks.max() + 1) for k in at]
            precisions = [np.sum(ranks < k) / k for k in last]
            rows.append([trapezoid_precision(ranks, len(positives)), *precisions])
        if rows:
            names = ["map", *(f"mp{k}" for k in at)]
            numbers |= {
                f"{name}_{n}": float(x) for n, x in zip(names, np.mean(rows, 0), strict=True)
            }
    if not numbers:
        raise NotMeasurable("no query has an image that is easy or hard")
    return numbers


def whitened(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whiten features (N, D) by the principal components of those of other images (M, D).

    As DINO's release does: the mean of `others` is subtracted from `features`, while the components
    are those of their second moments about zero. Variances below 1e-5 of the largest count as that.

    Raises:
      UserError: fewer than two other images.
    """
    check_shapes("whitened: features (N, D), others (M, D)", features, others)
    if len(others) < 2:
        raise UserError(f"whitening: {len(others)} image to learn from; expected two or more")
    rows = others.astype(np.float64)
    variance, axes = np.linalg.eigh(rows.T @ rows / len(rows))
    variance = np.maximum(variance, TINY * variance.max())
    return (features - rows.mean(0)) @ axes / np.sqrt(variance)


def cosines(queries: np.ndarray, database: np.ndarray) -> np.ndarray:
    """Return the cosines (Q, N) of all pairs of rows; 0 with a row of zeros."""
    return normalize(queries) @ normalize(database).T  # type: ignore[no-any-return]
