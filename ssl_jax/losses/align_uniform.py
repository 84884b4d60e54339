"""Alignment and uniformity on the hypersphere (2005.10242)."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.large_batch.similarity import Similarity, log_sum_exp
from ssl_jax.losses.normalize import as_float, l2_normalize
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes()
def alignment(x: Array, y: Array, alpha: float = 2.0, *, normalize: bool = True) -> Array:
    """Compute `mean_i |x_i - y_i|^alpha`, a scalar, of positives x and y.

    Args:
      x, y: (B, d).
      alpha: exponent of the distance.
      normalize: compare unit vectors; else x and y as they are.

    Raises:
      ValueError: not two matrices of one shape.
    """
    check_shapes("alignment: x, y (B, d)", x, y)
    x, y = (l2_normalize(v, floor="norm") if normalize else as_float(v) for v in (x, y))
    square = jnp.sum(jnp.square(x - y), axis=1)
    apart = square > 0  # a root has no gradient at 0
    return jnp.mean(jnp.where(apart, jnp.where(apart, square, 1) ** (alpha / 2), 0))


@any_axes()
def uniformity(
    x: Array,
    t: float | Array = 2.0,
    others: Array | None = None,
    *,
    normalize: bool = True,
    similarity: Similarity = "auto",
) -> Array:
    """Compute `log mean exp(-t |x_i - x_j|^2)`, a scalar, over all pairs i < j of the batch.

    Args:
      x: (B, d).
      t: > 0; 2 in the paper.
      others: (K, d), such as a queue, used as they are: the one mean is then also over the B K
        pairs of a row and one of them (SsnL/moco_align_uniform, moco/builder.py).
      normalize: compare unit vectors; else x as it is.
      similarity: how the (B, B) and (B, K) distances are computed; see
        `losses.large_batch.similarity`.

    Raises:
      ValueError: not a matrix; see also `losses.large_batch.similarity`.
    """
    check_shapes("uniformity: x (B, d), others (K, d)", x, others)
    x = l2_normalize(x, floor="norm") if normalize else as_float(x)
    own = jnp.arange(x.shape[0], dtype=jnp.int32)
    rows = log_sum_exp(_left(x, t), _right(x, t), groups=own, similarity=similarity)
    total, count = jax.nn.logsumexp(rows) - jnp.log(2.0), x.shape[0] * (x.shape[0] - 1) / 2
    if others is not None:
        rows = log_sum_exp(_left(x, t), _right(as_float(others), t), similarity=similarity)
        total, count = (
            jnp.logaddexp(total, jax.nn.logsumexp(rows)),
            count + x.shape[0] * len(others),
        )
    return total - jnp.log(jnp.asarray(count, x.dtype))


# -t |x - y|^2 is an inner product: [2t x, -t |x|^2, 1] . [y, 1, -t |y|^2].
def _left(x: Array, t: float | Array) -> Array:
    square = jnp.sum(jnp.square(x), axis=1, keepdims=True)
    return jnp.concatenate([2 * t * x, -t * square, jnp.ones_like(square)], axis=1)


def _right(y: Array, t: float | Array) -> Array:
    square = jnp.sum(jnp.square(y), axis=1, keepdims=True)
    return jnp.concatenate([y, jnp.ones_like(square), -t * square], axis=1)
