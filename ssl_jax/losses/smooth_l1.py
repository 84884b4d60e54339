"""Smooth L1, also called the Huber loss: a square near zero, a line elsewhere."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes(...)
def smooth_l1(prediction: Array, target: Array, beta: float = 1.0) -> Array:
    """Compute `x^2 / (2 beta)` where |x| < beta, `|x| - beta / 2` elsewhere, for the difference x.

    Not averaged: the result has the shape of `prediction` and is in at least float32. `beta=0` is
    the plain square x^2, as in fairseq's data2vec and unlike PyTorch, where it is |x|.
    """
    check_shapes("smooth_l1: prediction, target (...)", prediction, target)
    x = jnp.abs(as_float(prediction) - as_float(target))
    square = jnp.square(x)
    near = square / (2 * jnp.where(beta == 0, 1, beta))  # beta may be an array, so no `if`
    return jnp.where(beta == 0, square, jnp.where(x < beta, near, x - beta / 2))
