"""Losses of a reconstruction against the clean image (Vincent et al. 2010, JMLR 11), and of the
pixels' distribution that a discrete VAE predicts.
"""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes()
def squared_error(prediction: Array, target: Array, where: Array | None = None) -> Array:
    """Mean of `(prediction - target)^2`: a scalar, float32 or wider.

    Args:
      prediction, target: images (B, ..., C).
      where: (B, ..., 1), 1 or True at the pixels that count; by default all. No pixel gives 0.
    """
    expected = "squared_error: prediction, target (B, ..., C), where (B, ..., 1)"
    check_shapes(expected, prediction, target, where)
    return _mean(jnp.square(as_float(prediction) - as_float(target)), where)


@any_axes()
def bernoulli_error(logits: Array, target: Array, where: Array | None = None) -> Array:
    """Mean cross-entropy of pixels in [0, 1], taken as probabilities: a scalar, float32 or wider.

    `max(y, 0) - x y + log(1 + exp(-|y|))` for the logit y and the pixel x.

    Args:
      logits, target: (B, H, W, C).
      where: see `squared_error`.
    """
    check_shapes(
        "bernoulli_error: logits, target (B, H, W, C), where (B, H, W, 1)", logits, target, where
    )
    y = as_float(logits)
    return _mean(jnp.maximum(y, 0) - as_float(target) * y + jnp.log1p(jnp.exp(-jnp.abs(y))), where)


@any_axes()
def logit_laplace_error(prediction: Array, target: Array) -> Array:
    """Mean of `-ln p(x)` under the logit-Laplace distribution of pixels x in (0, 1): a scalar,
    float32 or wider (Ramesh et al. 2021, arXiv:2102.12092, appendix A.3).

    `p(x) = exp(-|logit(x) - m| / b) / (2 b x (1 - x))`: a Laplace distribution of the logit.

    Args:
      prediction: (B, H, W, 2 C), first m, then ln b.
      target: (B, H, W, C).
    """
    check_shapes(
        "logit_laplace_error: prediction (B, H, W, 2C), target (B, H, W, C)", prediction, target
    )
    x, (mean, log_scale) = as_float(target), jnp.split(as_float(prediction), 2, axis=-1)
    logit = jnp.log(x) - jnp.log1p(-x)
    distance = jnp.abs(logit - mean) * jnp.exp(-log_scale)
    return jnp.mean(jnp.log(2.0) + log_scale + jnp.log(x) + jnp.log1p(-x) + distance)


def _mean(error: Array, where: Array | None) -> Array:
    if where is None:
        return jnp.mean(error)
    weight = jnp.broadcast_to(where.astype(error.dtype), error.shape)
    return jnp.sum(error * weight) / jnp.maximum(jnp.sum(weight), 1.0)
