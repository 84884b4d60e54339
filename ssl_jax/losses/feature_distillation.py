"""The loss of feature distillation (2205.14141): smooth L1 to whitened features of a teacher."""

import chex
import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float

Array = jax.Array


@any_axes(...)
def whiten(features: Array, eps: float = 1e-5) -> Array:
    """Normalise each token (..., D) to mean 0 and variance 1: a layer norm without parameters
    (section 3.1).

    The result, in at least float32, does not depend on the scale and offset of a token.
    """
    x = as_float(features)
    mean = jnp.mean(x, axis=-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(jnp.var(x, axis=-1, keepdims=True) + eps)


@any_axes()
def feature_distillation(prediction: Array, teacher: Array, beta: float = 2.0) -> Array:
    """Smooth L1 between predictions and the whitened features of a teacher (equation 1).

    `x^2 / (2 beta)` where |x| < beta, `|x| - beta / 2` elsewhere: the mean over all tokens and
    channels, a scalar in at least float32. No gradient reaches the teacher.

    Args:
      prediction: (..., D), the student's tokens after its projection.
      teacher: (..., D), the teacher's tokens after its own last norm.
      beta: error at which the square becomes linear.

    Raises:
      ValueError: arrays of different shapes.
    """
    chex.assert_equal_shape(
        [prediction, teacher],
        custom_message="feature_distillation: expected two arrays of one shape (..., D)",
        exception_type=ValueError,
    )
    x = jnp.abs(as_float(prediction) - jax.lax.stop_gradient(whiten(teacher)))
    return jnp.mean(jnp.where(x < beta, jnp.square(x) / (2 * beta), x - beta / 2))
