"""W-MSE: whitened embeddings of positives attract (2007.06346)."""

import chex
import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float, l2_normalize
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes(1)
def whiten(x: Array, eps: float = 0.0) -> Array:
    """Return `W (x - mean(x))` with W the inverse of the covariance's Cholesky factor, (n, d).

    Its covariance is the identity. The gradient flows through mean and covariance.

    Args:
      x: (n, d), n > d.
      eps: share of the identity in the covariance before it is inverted.
    """
    check_shapes("whiten: x (n, d)", x)
    x = as_float(x)
    x = x - jnp.mean(x, axis=0)
    covariance = jnp.matmul(x.T, x, precision="highest") / (x.shape[0] - 1)
    covariance = (1 - eps) * covariance + eps * jnp.eye(x.shape[1], dtype=x.dtype)
    factor = jnp.linalg.cholesky(covariance)
    return jax.scipy.linalg.solve_triangular(factor, x.T, lower=True).T


@any_axes()
def wmse(x: Array, y: Array, size: int, eps: float = 0.0) -> Array:
    """Mean squared distance `2 - 2 cos` of positives, whitened in sub-batches; a scalar.

    Each view is whitened by itself within consecutive `size` rows (a batch is drawn at random; to
    average over several partitions, permute the rows of both and call again). No (B, B) matrix
    appears, and a sub-batch needs its own rows only.

    Args:
      x, y: (B, d), embeddings of two views.
      size: rows of a sub-batch, more than d; twice d in the paper.
      eps: as in `whiten`.

    Raises:
      ValueError: not two matrices of one shape, or a size that does not divide B or is at most d.
    """
    check_shapes("wmse: x, y (B, d)", x, y)
    batch, width = x.shape
    expected = f"wmse: expected a size that divides {batch} and is more than {width}, got {size}"
    chex.assert_is_divisible(batch, size, custom_message=expected, exception_type=ValueError)
    chex.assert_scalar_in(
        size, width + 1, batch, custom_message=expected, exception_type=ValueError
    )
    each = jax.vmap(lambda v: whiten(v, eps))
    x, y = (l2_normalize(each(v.reshape(-1, size, width)), floor="norm") for v in (x, y))
    return 2 - 2 * jnp.mean(jnp.sum(x * y, axis=-1))
