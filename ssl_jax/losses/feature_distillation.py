"""The loss of feature distillation (2205.14141): smooth L1 to whitened features of a teacher."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import standardize
from ssl_jax.losses.shapes import check_shapes
from ssl_jax.losses.smooth_l1 import smooth_l1

Array = jax.Array


@any_axes(...)
def whiten(features: Array, eps: float = 1e-5) -> Array:
    """Normalise each token (..., D) to mean 0 and variance 1: a layer norm without parameters
    (section 3.1).

    The result, in at least float32, does not depend on the scale and offset of a token.
    """
    check_shapes("whiten: features (..., D)", features)
    return standardize(features, eps=eps)


@any_axes()
def feature_distillation(prediction: Array, teacher: Array, beta: float = 2.0) -> Array:
    """Smooth L1 between predictions and the whitened features of a teacher (equation 1).

    The mean of `smooth_l1` over all tokens and channels, a scalar in at least float32. No gradient
    reaches the teacher.

    Args:
      prediction: (..., D), the student's tokens after its projection.
      teacher: (..., D), the teacher's tokens after its own last norm.
      beta: error at which the square becomes linear.

    Raises:
      ValueError: arrays of different shapes.
    """
    check_shapes("feature_distillation: prediction, teacher (..., D)", prediction, teacher)
    return jnp.mean(smooth_l1(prediction, jax.lax.stop_gradient(whiten(teacher)), beta))
