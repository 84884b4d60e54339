"""Divergence of the clusters of held-out features from Zipf's law, the fitness by which losses are
evolved (Piergiovanni et al. 2020, 2002.12177); without labels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.ranges import NonNegative, Positive, Seed, Several
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
    A network of clips sees clips, if the data are clips.

    Attributes:
      clusters: k.
      exponent: s of the law, shares in proportion to i^-s.
      sigma: deviation of the points around a centroid, in each dimension; None measures it.
      examples: most test examples.
      draw: number of the starting points of k-means.
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
    draw: Seed = 0

    prefix: ClassVar[str] = "diag"
    labels: ClassVar[bool] = False

    def measure(self, subject: Subject) -> dict[str, float]:
        part, probe = subject.images.some(self.examples), subject.probe_of(self)
        features, _ = subject.map_clips(read, part, probe)
        check_count(len(features), self.clusters)
        check_varied(features, subject.what)
        start = jax.random.key(self.draw)
        shares, hard = cluster_shares(features, self.clusters, self.sigma, start)
        return {
            "zipf_kl": float(zipf_divergence(shares, self.exponent)),
            "zipf_kl_hard": float(zipf_divergence(hard, self.exponent)),
            "zipf_entropy": float(jnp.sum(jax.scipy.special.entr(shares))),
        }


def read(encoder: Encoder, batch: Batch, probe: Probe) -> Array:
    """Read the features (B, D) of a batch."""
    return probe.read(encoder.features(batch.images))


def cluster_shares(
    features: np.ndarray, clusters: int, sigma: float | None, key: Array
) -> tuple[Array, Array]:
    """Return the shares (k,) of the clusters of features (N, D) by soft and by hard assignments.

    Args:
      sigma: see `Zipf`; None is the root of the mean squared distance to the nearest centroid, per
        dimension.
    """
    points = jnp.asarray(features, jnp.float32)
    present = jnp.ones(len(points), bool)
    partition = kmeans(points, present, clusters, key, iterations=ITERATIONS)
    deviation = jnp.sqrt(jnp.maximum(partition.cost, 0) / points.shape[1])
    # Points that all lie on their centroids have no deviation.
    least = 1e-6 * jnp.std(points)
    chosen = jnp.maximum(deviation, least) if sigma is None else sigma
    soft = posteriors(points, partition.centroids, chosen)
    return jnp.mean(soft, axis=0), partition.counts / len(points)
