"""Barlow Twins: the cross-correlation of two views should be the identity (2103.03230)."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes()
def cross_correlation(z1: Array, z2: Array, eps: float = 1e-5) -> Array:
    """C_ij = mean over the batch of feature i of one view times feature j of the other, (d, d).

    Features are standardised over the batch first: `(z - mean) / sqrt(var + eps)` with the biased
    variance, which is a batch norm without scale and bias.

    Args:
      z1, z2: (B, d), row i of both from example i.
      eps: added to the variance.
    """
    check_shapes("cross_correlation: z1, z2 (B, d)", z1, z2)
    z1, z2 = (_standardize(as_float(z), eps) for z in (z1, z2))
    return jnp.matmul(z1.T, z2, precision="highest") / z1.shape[0]


@any_axes()
def barlow_twins(z1: Array, z2: Array, redundancy: float = 0.0051) -> Array:
    """`sum_i (1 - C_ii)^2 + redundancy sum_{i != j} C_ij^2`; a scalar (equation 1).

    Args:
      z1, z2: (B, d), not normalised. The gradient goes to both.
      redundancy: the paper's lambda.
    """
    check_shapes("barlow_twins: z1, z2 (B, d)", z1, z2)
    c = cross_correlation(z1, z2)
    invariance = jnp.sum(jnp.square(1 - jnp.diagonal(c)))
    off_diagonal = jnp.where(jnp.eye(c.shape[0], dtype=bool), 0, c)
    return invariance + redundancy * jnp.sum(jnp.square(off_diagonal))


def _standardize(z: Array, eps: float) -> Array:
    z = z - jnp.mean(z, axis=0)
    return z * jax.lax.rsqrt(jnp.mean(jnp.square(z), axis=0) + eps)
