"""VICReg: variance, invariance, covariance (2105.04906)."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes()
def invariance(z1: Array, z2: Array) -> Array:
    """Mean squared difference over rows and features; a scalar (the released code's equation 5).

    The paper's equation 5 sums over the features; the code's coefficients belong to the mean.
    """
    check_shapes("invariance: z1, z2 (B, d)", z1, z2)
    return jnp.mean(jnp.square(as_float(z1) - as_float(z2)))


@any_axes()
def variance(z: Array, target: float = 1.0, eps: float = 1e-4) -> Array:
    """Mean over the features of `max(0, target - sqrt(var + eps))`; a scalar (equations 1 and 2).

    Args:
      z: (B, d).
      target: the standard deviation to reach, the paper's gamma.
      eps: keeps the gradient finite if a feature is constant.
    """
    check_shapes("variance: z (B, d)", z)
    deviation = jnp.sqrt(jnp.var(as_float(z), axis=0, ddof=1) + eps)
    return jnp.mean(jax.nn.relu(target - deviation))


@any_axes()
def covariance(z: Array) -> Array:
    """Sum of the squared off-diagonal entries of the covariance (d, d), over d; a scalar (eqs. 3
    and 4).
    """
    check_shapes("covariance: z (B, d)", z)
    z = as_float(z)
    z = z - jnp.mean(z, axis=0)
    rows, features = z.shape
    c = jnp.matmul(z.T, z, precision="highest") / (rows - 1)
    return jnp.sum(jnp.square(jnp.where(jnp.eye(features, dtype=bool), 0, c))) / features


@any_axes()
def vicreg(
    z1: Array,
    z2: Array,
    *,
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
) -> Array:
    """The weighted sum of the three terms over two views (B, d); a scalar (equation 6).

    As in the released code the variance term is averaged over the two views and the covariance term
    summed. The gradient goes to both views.
    """
    check_shapes("vicreg: z1, z2 (B, d)", z1, z2)
    return (
        invariance_weight * invariance(z1, z2)
        + variance_weight * (variance(z1) + variance(z2)) / 2
        + covariance_weight * (covariance(z1) + covariance(z2))
    )
