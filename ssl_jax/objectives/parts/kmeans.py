"""k-means and PCA whitening of one point per example of the data set, on the devices.

The points stay split by rows over all devices. An iteration sends one sum per cluster; distances
are computed for a block of centroids at a time, so that no array of (points x clusters) exists.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.losses.normalize import as_float, l2_normalize

Array = jax.Array
Empty = Literal["split", "halve", "keep"]

BLOCK = 2**28  # entries of the similarities held at a time, over all devices: 1 GiB
SPLIT = 1 / 1024  # relative move of the two halves of a split cluster (faiss)
HALVE = 1e-7  # absolute move of those of a halved cluster (DeeperCluster)
WHITENING_FLOOR = 1e-6  # share of the largest variance: directions without variance stay small


class Clusters(NamedTuple):
    """A clustering of R points.

    Attributes:
      centroids: (K, d).
      assignments: (R,) int32, the nearest centroid, also for rows that are not present.
      counts: (K,) int32, present points of each cluster.
      cost: mean squared distance of the present points to their centroids.
    """

    centroids: Array
    assignments: Array
    counts: Array
    cost: Array


def kmeans(
    points: Array,
    present: Array,
    clusters: int,
    key: Array,
    *,
    iterations: int,
    spherical: bool = False,
    empty: Empty = "split",
    start: Array | None = None,
    block: int = BLOCK,
) -> Clusters:
    """Lloyd's algorithm from random points.

    Args:
      points: (R, d).
      present: (R,) bool; other rows are ignored. At least `clusters` must be True.
      clusters: K.
      key: random key of the starting points.
      iterations: rounds of assignment and averaging, followed by one more assignment.
      spherical: centroids are unit vectors and the nearest one has the largest inner product, for
        points on the sphere.
      empty: what to do with a cluster without points. "split" splits the largest clusters in two,
        by small moves to either side (faiss draws which ones); "keep" keeps its old centroid;
        "halve" gives it the centroid of a random other one with the first half of its points, also
        at the end, as DeeperCluster does (1905.01278).
      start: (K, d), centroids to start from instead.
      block: entries of the similarities that are held at a time.
    """
    points = as_float(points)
    noise = jnp.where(present, jax.random.uniform(key, present.shape), -1.0)
    centroids = points[jax.lax.top_k(noise, clusters)[1]] if start is None else as_float(start)

    def iterate(round_: Array, centroids: Array) -> Array:
        assignments, _ = nearest(points, centroids, spherical=spherical, block=block)
        sums, counts = totals(points, present, assignments, clusters, block=block)
        means = l2_normalize(sums) if spherical else sums / jnp.maximum(counts, 1)[:, None]
        means = jnp.where(counts[:, None] > 0, means, centroids)
        if empty == "halve":
            members = jnp.where(present, assignments, -1)
            return _halve(means, counts, members, jax.random.fold_in(key, round_))[0]
        return _split(means, counts) if empty == "split" else means

    centroids = jax.lax.fori_loop(0, iterations, iterate, centroids)
    assignments, similarity = nearest(points, centroids, spherical=spherical, block=block)
    if spherical:
        similarity = similarity - jnp.sum(jnp.square(centroids), axis=1)[assignments] / 2
    counts = count(assignments, present, clusters, block=block)
    if empty == "halve":
        members = jnp.where(present, assignments, -1)
        last = jax.random.fold_in(key, iterations)
        centroids, counts, members = _halve(centroids, counts, members, last)
        assignments = jnp.where(present, members, assignments)
    distances = jnp.sum(jnp.square(points), axis=1) - 2 * similarity
    cost = jnp.sum(jnp.where(present, distances, 0)) / jnp.sum(present)
    return Clusters(centroids, assignments, counts, cost)


def two_level_kmeans(
    points: Array,
    present: Array,
    upper: int,
    lower: int,
    key: Array,
    *,
    iterations: int,
    empty: Empty = "split",
) -> tuple[Array, Array, Array]:
    """Cluster the points, and then the points of each cluster.

    The arguments are those of `kmeans`; there are `upper` clusters of `lower` clusters each.

    Returns:
      The two assignments of each point, (R,) int32, and the number of present points (upper, lower)
      int32.
    """
    cluster = functools.partial(kmeans, iterations=iterations, empty=empty)
    above = cluster(points, present, upper, rng.named(key, "kmeans")).assignments

    def divide(s: Array) -> tuple[Array, Array]:
        members = present & (above == s)
        part = cluster(points, members, lower, jax.random.fold_in(key, s))
        return part.assignments, part.counts

    every, counts = jax.lax.map(divide, jnp.arange(upper, dtype=jnp.int32))
    return above, jnp.take_along_axis(every, above[None], axis=0)[0], counts


def nearest(
    points: Array, centroids: Array, *, spherical: bool = False, block: int = BLOCK
) -> tuple[Array, Array]:
    """Find each point's centroid, (R,) int32, and its similarity (R,): the inner product, minus
    half the centroid's squared norm unless `spherical`. Ties go to the first centroid.
    """
    bias = 0 if spherical else -jnp.sum(jnp.square(centroids), axis=1) / 2
    bias = jnp.broadcast_to(bias, centroids.shape[:1]).astype(points.dtype)
    size, starts = _blocks(len(points), len(centroids), block)
    padding = len(starts) * size - len(centroids)
    tiles = jnp.pad(centroids, ((0, padding), (0, 0))).reshape(len(starts), size, -1)
    biases = jnp.pad(bias, (0, padding), constant_values=-jnp.inf).reshape(len(starts), size)

    def better(best: tuple[Array, Array], tile: tuple[Array, Array, Array]) -> tuple:
        start, centroids, bias = tile
        similarity = jnp.matmul(points, centroids.T, precision="highest") + bias
        here = (
            jnp.argmax(similarity, axis=1).astype(jnp.int32) + start,
            jnp.max(similarity, axis=1),
        )
        closer = here[1] > best[1]
        return tuple(jnp.where(closer, h, b) for h, b in zip(here, best, strict=True)), None

    start = (points[:, 0].astype(jnp.int32) * 0, jnp.full_like(points[:, 0], -jnp.inf))
    return jax.lax.scan(better, start, (starts, tiles, biases))[0]


def totals(
    points: Array, present: Array, assignments: Array, clusters: int, *, block: int = BLOCK
) -> tuple[Array, Array]:
    """Compute the sum (K, d) and number (K,) int32 of the present points of each cluster.

    Sums are products with one-hot rows, not scatters, which are slow on TPUs and not bitwise
    reproducible on GPUs.
    """
    size, starts = _blocks(len(points), clusters, block)

    def block_totals(start: Array) -> tuple[Array, Array]:
        members = assignments[:, None] == start + jnp.arange(size, dtype=jnp.int32)
        members = members & present[:, None]
        sums = jnp.matmul(members.T.astype(points.dtype), points, precision="highest")
        return sums, jnp.sum(members, axis=0, dtype=jnp.int32)

    sums, counts = jax.lax.map(block_totals, starts)
    return sums.reshape(-1, points.shape[1])[:clusters], counts.reshape(-1)[:clusters]


def count(assignments: Array, present: Array, clusters: int, *, block: int = BLOCK) -> Array:
    """Count the present points of each cluster, (K,) int32."""
    size, starts = _blocks(len(assignments), clusters, block)

    def block_totals(start: Array) -> Array:
        members = assignments[:, None] == start + jnp.arange(size, dtype=jnp.int32)
        return jnp.sum(members & present[:, None], axis=0, dtype=jnp.int32)

    return jax.lax.map(block_totals, starts).reshape(-1)[:clusters]


def pca_whiten(points: Array, present: Array, dim: int) -> Array:
    """Compute the first `dim` principal components of the present points, scaled to variance 1.

    Returns (R, dim), 0 in rows that are not present. Directions of (nearly) no variance stay near
    0.
    """
    points = as_float(points)
    weight = present[:, None].astype(points.dtype)
    number = jnp.maximum(jnp.sum(weight), 1)
    centred = (points - jnp.sum(points * weight, axis=0) / number) * weight
    covariance = jnp.matmul(centred.T, centred, precision="highest") / number
    variances, directions = jnp.linalg.eigh(covariance)  # ascending
    variances, directions = variances[::-1][:dim], directions[:, ::-1][:, :dim]
    least = jnp.maximum(WHITENING_FLOOR * variances[0], jnp.finfo(points.dtype).tiny)
    scale = jax.lax.rsqrt(jnp.maximum(variances, least))
    return jnp.matmul(centred, directions, precision="highest") * scale


def check_components(components: int, width: int) -> None:
    """Raise `UserError` if features of this width have fewer components to whiten."""
    if components > width:
        raise UserError(
            f"objective.whitened: expected at most the {width} features, got {components}"
        )


def _split(centroids: Array, counts: Array) -> Array:
    """Replace empty clusters by one half of the largest ones, which keep the other half."""
    clusters, dim = centroids.shape
    empty = counts == 0
    largest_first = jnp.argsort(-counts, stable=True)
    filled = jnp.maximum(jnp.sum(~empty), 1)
    donor = largest_first[(jnp.cumsum(empty) - 1) % filled]
    donates = (
        jnp.zeros((clusters,), bool).at[jnp.where(empty, donor, clusters)].set(True, mode="drop")
    )
    move = SPLIT * (1 - 2 * (jnp.arange(dim) % 2)).astype(centroids.dtype)
    stay = jnp.where(donates[:, None], centroids * (1 - move), centroids)
    return jnp.where(empty[:, None], centroids[donor] * (1 + move), stay)


def _halve(
    centroids: Array, counts: Array, members: Array, key: Array
) -> tuple[Array, Array, Array]:
    """Give each empty cluster half of the points of another one; return all three arrays anew.

    Args:
      members: (R,) int32, the cluster of each point; -1 for rows that do not count.
    """
    move = HALVE * (2 * (jnp.arange(centroids.shape[1]) % 2) - 1).astype(centroids.dtype)
    order = jnp.argsort(counts > 0, stable=True)  # the empty ones first

    def fill(i: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        centroids, counts, members = state
        empty, donor = order[i], draw_donor(jax.random.fold_in(key, i), counts)
        stay, go = centroids[donor] - move, centroids[donor] + move
        centroids = centroids.at[donor].set(stay).at[empty].set(go)
        rest = counts[donor] // 2
        first = jnp.cumsum(members == donor) <= counts[donor] - rest
        members = jnp.where((members == donor) & first, empty, members).astype(members.dtype)
        counts = counts.at[empty].set(counts[donor] - rest).at[donor].set(rest)
        return centroids, counts, members

    return jax.lax.fori_loop(0, jnp.sum(counts == 0), fill, (centroids, counts, members))


def draw_donor(key: Array, counts: Array) -> Array:
    """Draw one of the clusters that are not empty, an int32 scalar."""
    noise = jnp.where(counts > 0, jax.random.uniform(key, counts.shape), -1.0)
    return jnp.argmax(noise).astype(jnp.int32)


def _blocks(points: int, clusters: int, block: int) -> tuple[int, Array]:
    """Return the number of clusters per block and the start of each block."""
    size = min(max(block // points, 1), clusters)
    return size, jnp.arange(0, clusters, size, dtype=jnp.int32)
