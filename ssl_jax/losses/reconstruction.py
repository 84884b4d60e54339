"""Losses of a reconstruction against the clean image (Vincent et al. 2010, JMLR 11)."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float

Array = jax.Array


@any_axes()
def squared_error(prediction: Array, target: Array, where: Array | None = None) -> Array:
    """Mean of `(prediction - target)^2`: a scalar, float32 or wider.

    Args:
      prediction, target: images (B, H, W, C).
      where: (B, H, W, 1), 1 or True at the pixels that count; by default all. No pixel gives 0.
    """
    return _mean(jnp.square(as_float(prediction) - as_float(target)), where)


@any_axes()
def bernoulli_error(logits: Array, target: Array, where: Array | None = None) -> Array:
    """Mean cross-entropy of pixels in [0, 1], taken as probabilities: a scalar, float32 or wider.

    `max(y, 0) - x y + log(1 + exp(-|y|))` for the logit y and the pixel x.

    Args:
      logits, target: (B, H, W, C).
      where: see `squared_error`.
    """
    y = as_float(logits)
    return _mean(jnp.maximum(y, 0) - as_float(target) * y + jnp.log1p(jnp.exp(-jnp.abs(y))), where)


def _mean(error: Array, where: Array | None) -> Array:
    if where is None:
        return jnp.mean(error)
    weight = jnp.broadcast_to(where.astype(error.dtype), error.shape)
    return jnp.sum(error * weight) / jnp.maximum(jnp.sum(weight), 1.0)
