"""Odd images of a data set: those whose nearest other images are far."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from ssl_jax.embeddings.neighbors import blocks


class Oddness(NamedTuple):
    """Distances of all rows.

    Attributes:
      distance: (N,), mean of 1 - cosine to the k nearest other rows.
      nearest: (N, k), these rows, nearest first.
      deviations: (N,), robust z-score of the distance: (distance - median) / (1.4826 MAD), where
        MAD is the median absolute deviation from the median; 0 where that is 0.
    """

    distance: np.ndarray
    nearest: np.ndarray
    deviations: np.ndarray


def oddness(
    features: np.ndarray,
    k: int,
    mesh: Mesh | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Oddness:
    """Return the mean distance of each row of features (N, D) to its k < N nearest other rows
    (Angiulli and Pizzuti 2002, "Fast outlier detection in high dimensional spaces").
    """
    distances, nearest, done = [], [], 0
    for cosines, rows in blocks(features, k, mesh):
        distances.append(1 - cosines.mean(axis=1, dtype=np.float64))
        nearest.append(rows)
        done += len(rows)
        progress(done)
    distance = np.concatenate(distances)
    gap = distance - np.median(distance)
    spread = 1.4826 * np.median(np.abs(gap))
    deviations = gap / spread if spread > 0 else np.zeros_like(gap)
    return Oddness(distance, np.concatenate(nearest), deviations)
