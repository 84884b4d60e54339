"""Divergence of the sizes of clusters from Zipf's law, the fitness of evolving losses (Piergiovanni
et al. 2020, arXiv:2002.12177). Natural logarithms throughout.
"""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes()
def zipf_prior(clusters: int | Array, exponent: float | Array = 1.0) -> Array:
    """Shares `i^-s / H` of the clusters i = 1 .. k by Zipf's law, the largest first: (k,) float32.

    Args:
      clusters: k, or an array whose last axis has that length and whose type the result takes.
      exponent: s.
    """
    count = clusters if isinstance(clusters, int) else clusters.shape[-1]
    dtype = jnp.float32 if isinstance(clusters, int) else as_float(clusters).dtype
    shares = jnp.arange(1, count + 1, dtype=dtype) ** -jnp.asarray(exponent, dtype)
    return shares / jnp.sum(shares)


@any_axes(1)
def posteriors(points: Array, centroids: Array, sigma: float | Array) -> Array:
    """Probabilities (N, k) of the clusters for each point: the softmax over the clusters of
    `-|x - c|^2 / (2 sigma^2)`, in at least float32.

    Args:
      points: x, (N, d).
      centroids: c, (k, d).
      sigma: deviation of the points around their centroid, in each dimension.
    """
    check_shapes("posteriors: points (N, d), centroids (k, d)", points, centroids)
    x, c = as_float(points), as_float(centroids)
    # Differences, not |x|^2 - 2 x c + |c|^2, which cancels for points far from the origin.
    each = jax.lax.map(lambda centroid: jnp.sum(jnp.square(x - centroid), axis=-1), c)
    return jax.nn.softmax(-each.T / (2 * sigma**2), axis=-1)


@any_axes()
def zipf_divergence(shares: Array, exponent: float | Array = 1.0) -> Array:
    """`KL(p || q) = sum_i p_i ln(p_i / q_i)` between the shares of the clusters, sorted, and Zipf's
    law q; a scalar, float32 or wider. The smaller, the closer; 0 for clusters of exactly that law.

    An empty cluster adds 0. Both degenerate clusterings have a moderate value: k equal shares the
    mean of `-ln(k q)`, a single cluster `-ln q_1`. So look at the entropy of p too.

    Args:
      shares: p, (k,), not negative, with the sum 1; in any order.
      exponent: see `zipf_prior`.
    """
    check_shapes("zipf_divergence: shares (k)", shares)
    p = jnp.sort(as_float(shares))[::-1]
    log_ratio = jnp.log(jnp.where(p > 0, p, 1)) - jnp.log(zipf_prior(p, exponent))
    return jnp.sum(jnp.where(p > 0, p * log_ratio, 0))
