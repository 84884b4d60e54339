"""Groups of images that are copies of each other, or nearly so, by the cosine of their features."""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from jax.sharding import Mesh
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.preprocessing import normalize

from ssl_jax.embeddings.encoder import ImageEncoder
from ssl_jax.embeddings.neighbors import blocks
from ssl_jax.embeddings.run import results
from ssl_jax.losses.shapes import check_shapes

SAMPLE = 256  # images that are changed slightly to choose the threshold
SHARE = 0.1  # of these changes may be missed
RANDOM = 2048  # images whose pairs are taken for different
ALIKE = 1e-3  # share of these pairs that may be above the threshold
HIGHEST = 0.9999
QUALITY, DEGREES, GAIN = 75, 5.0, 1.1
CHANGES = (
    f"JPEG of quality {QUALITY}, a rotation by {DEGREES:g} degrees, {GAIN - 1:.0%} more brightness"
)


class Threshold(NamedTuple):
    """A cosine above which images are near copies, and the two numbers it is the larger of.

    Attributes:
      copies: 1 - SHARE of the slight changes have at least this cosine with their image.
      others: ALIKE of all pairs of different images have at least this cosine.
    """

    value: float
    copies: float
    others: float


class Pairs(NamedTuple):
    """Pairs of rows, `first` < `second`, each (P,), and their cosines (P,)."""

    first: np.ndarray
    second: np.ndarray
    cosine: np.ndarray


def slight_changes(image: np.ndarray) -> list[np.ndarray]:
    """Return copies of an image (H, W, C) uint8 as people and websites make them: `CHANGES`. JPEG
    is left out if it cannot hold the channels.
    """
    height, width, channels = image.shape
    copies = []
    if channels in (1, 3):
        _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        flag = cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE
        decoded = np.asarray(cv2.imdecode(data, flag))
        copies.append(decoded.reshape(image.shape)[..., ::-1])
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), DEGREES, 1)
    border = cv2.BORDER_REPLICATE
    planes = [image[..., i] for i in range(channels)]  # cv2 takes at most four channels
    copies.append(
        np.stack([cv2.warpAffine(p, turn, (width, height), borderMode=border) for p in planes], -1)
    )
    copies.append(np.clip(image.astype(np.float32) * GAIN, 0, 255).astype(np.uint8))
    return copies


def choose_threshold(
    encoder: ImageEncoder, images: np.ndarray, features: np.ndarray, mesh: Mesh
) -> Threshold:
    """Choose the cosine above which this encoder's images are near copies.

    It is so low that most slight changes of an image are near copies of it, but no lower than
    nearly all pairs of different images.

    Args:
      images: (n, H, W, C) uint8, crops as the encoder takes them, n > 0.
      features: (N, D), of random images, N > 1, and other images than copies of each other.
    """
    check_shapes("choose_threshold: images (n, h, w, c), features (N, D)", images, features)
    groups = [[image, *slight_changes(image)] for image in images]
    count = len(groups[0])
    vectors = _features(encoder, np.stack([x for group in groups for x in group]), mesh)
    vectors = normalize(vectors).reshape(len(images), count, -1)
    cosines = np.einsum("nd,ncd->nc", vectors[:, 0], vectors[:, 1:])
    others = normalize(features)
    pairs = (others @ others.T)[np.triu_indices(len(others), 1)]
    low, high = np.quantile(cosines, SHARE), np.quantile(pairs, 1 - ALIKE)
    return Threshold(float(min(max(low, high), HIGHEST)), float(low), float(high))


def near_pairs(
    features: np.ndarray,
    k: int,
    threshold: float,
    mesh: Mesh | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Pairs:
    """Return the pairs of rows of features (N, D) whose cosine is at least `threshold`, among the k
    nearest other rows of each row. Memory grows with the rows, not with their square.
    """
    first, second, cosine, done = [], [], [], 0
    for cosines, rows in blocks(features, k, mesh):
        query, place = np.nonzero(cosines >= threshold)
        a, b = query + done, rows[query, place].astype(np.int64)
        first.append(np.minimum(a, b))
        second.append(np.maximum(a, b))
        cosine.append(cosines[query, place])
        done += len(rows)
        progress(done)
    a, b = np.concatenate(first), np.concatenate(second)
    _, once = np.unique(a * np.int64(len(features)) + b, return_index=True)
    return Pairs(a[once], b[once], np.concatenate(cosine)[once])


def groups(count: int, first: np.ndarray, second: np.ndarray) -> list[np.ndarray]:
    """Return the groups of rows that pairs connect, each ascending, the largest first; rows without
    a pair are in none.
    """
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(count, count))
    _, group = connected_components(graph, directed=False)
    order = np.argsort(group, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    several = [part for part in parts if len(part) > 1]
    return sorted(several, key=lambda part: (-len(part), int(part[0])))


def _features(encoder: ImageEncoder, images: np.ndarray, mesh: Mesh) -> np.ndarray:
    """Return the features (N, D) of crops (N, H, W, C) uint8."""
    size = 256 + -256 % mesh.size
    batches = []
    for start in range(0, len(images), size):
        part = images[start : start + size]
        crops = np.zeros((size, *images.shape[1:]), np.uint8)
        index = np.full(size, -1, np.int32)
        crops[: len(part)], index[: len(part)] = part, np.arange(start, start + len(part))
        batches.append((crops, index))
    return np.concatenate([rows.features for rows in results(encoder, batches, mesh)])
