"""The loss of a mask of which some pixels are not known."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes(...)
def mask_logistic(logits: Array, mask: Array) -> Array:
    """Logistic loss of the pixels that are 1 or 0 in the mask, averaged over them; a scalar, 0 if
    there are none. All other values of the mask, such as -1 or 255, mean that a pixel is ignored.

    Args:
      logits: (...), positive for 1.
      mask: (...) integers.

    Raises:
      ValueError: different shapes.
    """
    check_shapes("mask_logistic: logits, mask (...)", logits, mask)
    logits = as_float(logits)
    valid = (mask == 0) | (mask == 1)
    loss = jax.nn.softplus(jnp.where(mask == 1, -logits, logits))
    return jnp.sum(jnp.where(valid, loss, 0)) / jnp.maximum(jnp.sum(valid), 1)
