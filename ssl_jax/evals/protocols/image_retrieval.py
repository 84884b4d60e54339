"""Image retrieval: ranking the training images by their cosine to a test image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ssl_jax.core.ranges import Count
from ssl_jax.evals.base import AtLayer, Subject
from ssl_jax.evals.checks import NotMeasurable
from ssl_jax.evals.neighbours import nearest
from ssl_jax.losses.shapes import check_shapes

TILE_ELEMENTS = 2**24  # similarities that are ranked at once


@dataclass(frozen=True, kw_only=True)
class ImageRetrieval(AtLayer):
    """Mean average precision and recall of each test image as a query among the training images.

    Attributes:
      k: numbers of nearest images among which recall looks for one of the query's class.
    """

    titles: ClassVar[Mapping[str, str]] = {
        "image_retrieval_map": "training images by distance, mean average precision",
        "image_retrieval{k}": "a training image of the class among the nearest {k}",
    }
    scores: ClassVar[tuple[str, ...]] = ("image_retrieval",)
    decides: ClassVar[tuple[str, ...]] = ("image_retrieval_map",)

    k: tuple[Count, ...] = (1, 5, 10)

    def measure(self, subject: Subject) -> dict[str, float]:
        precision, recall = retrieve(*subject.train(self), *subject.test(self), self.k)
        return {"image_retrieval_map": precision} | {
            f"image_retrieval{k}": share for k, share in recall.items()
        }


def retrieve(
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    k: Sequence[int] = (1, 5, 10),
) -> tuple[float, dict[int, float]]:
    """Return (mean average precision, k -> recall) over the queries with an image of their class.

    The average precision of a query is the mean, over the images of its class, of the share of its
    class down to that image in the order of decreasing cosine; ties go to the earlier image. Recall
    at k is the share of queries with an image of their class among the first k.

    Args:
      gallery, queries: (N, D) and (M, D) features of any scale.
      gallery_labels, query_labels: (N,) and (M,) integers.

    Raises:
      UserError: no query has an image of its class.
    """
    gallery_labels, query_labels = np.asarray(gallery_labels), np.asarray(query_labels)
    check_shapes("retrieve: gallery (N, D), gallery_labels (N) int", gallery, gallery_labels)
    check_shapes("retrieve: queries (M, D), query_labels (M) int", queries, query_labels)
    answerable = np.isin(query_labels, gallery_labels)
    if not answerable.any():
        raise NotMeasurable("image retrieval: no test image has a training image of its class")
    queries, query_labels = queries[answerable], query_labels[answerable]
    size = max(1, TILE_ELEMENTS // len(gallery))
    tiles = []
    for start in range(0, len(queries), size):
        _, order = nearest(gallery, queries[start : start + size], len(gallery))
        tiles.append(_scores(gallery_labels[order] == query_labels[start : start + size, None]))
    precision, first = (np.concatenate(columns) for columns in zip(*tiles, strict=True))
    return float(precision.mean()), {n: float(np.mean(first < n)) for n in k}


def _scores(correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, per query, the average precision (T,) and the rank (T,) of the first image of its
    class, from 0.

    Args:
      correct: (T, N) bool, whether each image is of the query's class, nearest first.
    """
    hits = np.cumsum(correct, axis=1)
    share = np.where(correct, hits / np.arange(1, correct.shape[1] + 1), 0)
    return share.sum(axis=1) / hits[:, -1], correct.argmax(axis=1)
