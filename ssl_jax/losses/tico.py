"""TiCo: transformation invariance and covariance contrast (2206.10698)."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes()
def tico(
    x: Array, y: Array, covariance: Array, decay: float = 0.9, weight: float = 20.0
) -> tuple[Array, Array]:
    """Compute `1 - mean(x.y) + weight mean(x C x)` of unit vectors, and the new C.

    C is the moving average of the batch's second moment `x.T x / B`, updated first and constant in
    the gradient. No (B, B) matrix appears.

    Args:
      x, y: (B, d), embeddings of two views; in the paper y is of a momentum encoder.
      covariance: (d, d), C so far; zeros at first.
      decay: beta.
      weight: rho; 20 in lightly 1.6.0.

    Returns:
      The loss, a scalar, and C, (d, d).

    Raises:
      ValueError: not two matrices of one shape.
    """
    check_shapes("tico: x, y (B, d), covariance (d, d)", x, y, covariance)
    x, y = (l2_normalize(v, floor="norm") for v in (x, y))
    fixed = jax.lax.stop_gradient(x)
    moment = jnp.matmul(fixed.T, fixed, precision="highest") / x.shape[0]
    covariance = jax.lax.stop_gradient(decay * covariance + (1 - decay) * moment)
    contrast = jnp.sum(jnp.matmul(x, covariance, precision="highest") * x, axis=1)
    return 1 - jnp.mean(jnp.sum(x * y, axis=1)) + weight * jnp.mean(contrast), covariance
