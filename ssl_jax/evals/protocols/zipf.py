"""Divergence of the clusters of held-out features from Zipf's law, the fitness by which losses are
evolved (Piergiovanni et al. 2020, 2002.12177); without labels.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.ranges import Count, NonNegative, Positive, Seed, Several
from ssl_jax.evals.base import AtLayer, Batch, Subject
from ssl_jax.evals.checks import check_count, check_varied
from ssl_jax.losses.zipf import posteriors, zipf_divergence
from ssl_jax.objectives.base import Encoder, Probe
from ssl_jax.objectives.parts.kmeans import kmeans

Array = jax.Array
ITERATIONS = 30


@dataclass(frozen=True, kw_only=True)
class Zipf(AtLayer):
    """k-means of test features; the shares of the clusters against Zipf's law, and their entropy,
    as features that collapsed, or all of whose clusters are equal, have a moderate divergence too.
    A network of clips sees clips, if the data are clips. The numbers are means over several starts
    of k-means: on moving_digits the divergence of single starts deviates by .01 to .04, which is
    more than the weights of the losses change it.

    Attributes:
      clusters: k.
      exponent: s of the law, shares in proportion to i^-s.
      sigma: deviation of the points around a centroid, in each dimension; None measures it.
      examples: most test examples.
      starts: runs of k-means.
      draw: number of their starting points.
    """

    titles: ClassVar[Mapping[str, str]] = {
        "zipf_kl": "divergence of clusters from Zipf's law",
        "zipf_kl_hard": "divergence of clusters from Zipf's law, hard assignments",
        "zipf_entropy": "entropy of the clusters' shares, nats",
    }

    clusters: Several = 10
    exponent: NonNegative = 1.0
    sigma: Positive | None = None
    examples: Several = 2048
    starts: Count = 32
    draw: Seed = 0

    prefix: ClassVar[str] = "diag"
    labels: ClassVar[bool] = False

    def measure(self, subject: Subject) -> dict[str, float]:
        part, probe = subject.images.some(self.examples), subject.probe_of(self)
        features, _ = subject.map_clips(read, part, probe)
        check_count(len(features), self.clusters)
        check_varied(features, subject.what)
        keys = jax.random.split(jax.random.key(self.draw), self.starts)
        soft, hard = cluster_shares(features, self.clusters, self.sigma, keys)
        return {
            "zipf_kl": divergence(soft, self.exponent),
            "zipf_kl_hard": divergence(hard, self.exponent),
            "zipf_entropy": entropy(soft),
        }


def read(encoder: Encoder, batch: Batch, probe: Probe) -> Array:
    """Read the features (B, D) of a batch."""
    return probe.read(encoder.features(batch.images))


def divergence(shares: Array, exponent: float = 1.0) -> float:
    """Return the mean divergence of the shares (S, k) of S clusterings from Zipf's law."""
    return float(jnp.mean(jax.vmap(functools.partial(zipf_divergence, exponent=exponent))(shares)))


def entropy(shares: Array) -> float:
    """Return the mean entropy of the shares (S, k) of S clusterings, nats."""
    return float(jnp.mean(jnp.sum(jax.scipy.special.entr(shares), axis=1)))


@functools.partial(jax.jit, static_argnames="clusters")
def cluster_shares(
    features: Array | np.ndarray, clusters: int, sigma: float | None, keys: Array
) -> tuple[Array, Array]:
    """Return the shares (S, k) of the clusters of features (N, D) by soft and by hard assignments,
    from S starts of k-means.

    Args:
      sigma: see `Zipf`; None is the root of the mean squared distance to the nearest centroid, per
        dimension.
      keys: (S,), random keys of the starting points.
    """
    points = jnp.asarray(features, jnp.float32)
    present = jnp.ones(len(points), bool)
    # Points that all lie on their centroids have no deviation.
    least = 1e-6 * jnp.std(points)

    def shares(key: Array) -> tuple[Array, Array]:
        partition = kmeans(points, present, clusters, key, iterations=ITERATIONS)
        deviation = jnp.sqrt(jnp.maximum(partition.cost, 0) / points.shape[1])
        chosen = jnp.maximum(deviation, least) if sigma is None else sigma
        soft = posteriors(points, partition.centroids, chosen)
        return jnp.mean(soft, axis=0), partition.counts / len(points)

    both: tuple[Array, Array] = jax.lax.map(shares, keys)
    return both
