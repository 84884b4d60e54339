"""Regression of one unit vector onto another: the losses of BYOL and SimSiam."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes(...)
def regression_loss(prediction: Array, target: Array) -> Array:
    """Squared distance of the unit vectors, `2 - 2 cos`, in [0, 4]; BYOL (2006.07733, equation 2).

    Args:
      prediction, target: (..., d). BYOL stops the gradient of the target; the caller has to do it.

    Returns:
      (...), one value per vector.
    """
    check_shapes("regression_loss: prediction, target (..., d)", prediction, target)
    return jnp.sum(jnp.square(l2_normalize(prediction) - l2_normalize(target)), axis=-1)


@any_axes(...)
def negative_cosine(prediction: Array, target: Array) -> Array:
    """`-cos`, in [-1, 1]; SimSiam (2011.10566, equation 1). (..., d), (..., d) -> (...)."""
    check_shapes("negative_cosine: prediction, target (..., d)", prediction, target)
    return -jnp.sum(l2_normalize(prediction) * l2_normalize(target), axis=-1)
