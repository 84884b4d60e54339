"""Losses between the modalities of a clip, and their weighted sum (evolving losses, Piergiovanni et
al. 2020, arXiv:2002.12177). No code was released; the forms are those of the paper's section 3.
"""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes(...)
def binary(logits: Array, labels: Array) -> Array:
    """`softplus(z) - y z`, the cross-entropy of a yes-no question, one value per entry, in at
    least float32.

    Args:
      logits: z, (...).
      labels: y, (...), 1 for yes and 0 for no.
    """
    check_shapes("binary: logits, labels (...)", logits, labels)
    z = as_float(logits)
    return jax.nn.softplus(z) - labels * z


@any_axes(1)
def margin_contrast(z: Array, positive: Array, negative: Array, margin: float = 1.0) -> Array:
    """`|z - z+|^2 + max(0, a - |z - z-|^2)` for each row, in at least float32.

    Args:
      z: (B, ..., d), embeddings of one modality.
      positive: z+, (B, ..., d), those of another modality of the same clips.
      negative: z-, (B, ..., d), those of other clips.
      margin: a.
    """
    check_shapes("margin_contrast: z, positive, negative (B, ..., d)", z, positive, negative)
    z, near, far = as_float(z), as_float(positive), as_float(negative)
    apart = jnp.sum(jnp.square(z - far), axis=-1)
    return jnp.sum(jnp.square(z - near), axis=-1) + jax.nn.relu(margin - apart)


@any_axes(1)
def feature_distance(student: Array, teacher: Array) -> Array:
    """`|s - t|^2`, summed over the dimensions, for each row, in at least float32. The teacher gets
    no gradient.

    Args:
      student, teacher: (B, ..., d).
    """
    check_shapes("feature_distance: student, teacher (B, ..., d)", student, teacher)
    return jnp.sum(jnp.square(as_float(student) - jax.lax.stop_gradient(as_float(teacher))), -1)


@any_axes()
def weighted_sum(losses: Array, weights: Array) -> Array:
    """`sum_t w_t l_t`, a scalar, float32 or wider. A loss of weight 0 adds exactly 0, even if it is
    not finite, and gets a gradient of exactly 0; see `switched` for what lies before it.

    Args:
      losses, weights: (T,).
    """
    check_shapes("weighted_sum: losses, weights (T)", losses, weights)
    # Selected before the product: 0 times infinity is no number.
    return jnp.sum(weights * jnp.where(weights != 0, as_float(losses), 0))


@any_axes(...)
def switched(values: Array, weights: float | Array, axis: int = 0) -> Array:
    """`values`, unchanged; their gradient is exactly 0 where the weight is 0, even if the functions
    applied to them have a derivative that is not finite.

    Args:
      values: (...), inputs or parameters of a task, or of T tasks along `axis`.
      weights: the task's weight, a scalar, or those of T tasks, (T,).
    """
    weights = jnp.asarray(weights)
    if weights.ndim:
        check_shapes("switched: weights (T)", weights)
    shape = [1] * values.ndim
    if weights.ndim:
        shape[axis] = len(weights)
    return _switched(values, jnp.reshape(weights, shape))


@jax.custom_vjp
def _switched(values: Array, weights: Array) -> Array:
    del weights
    return values


def _forward(values: Array, weights: Array) -> tuple[Array, Array]:
    return values, weights


def _backward(weights: Array, gradient: Array) -> tuple[Array, Array]:
    return jnp.where(weights != 0, gradient, 0), jnp.zeros_like(weights)


_switched.defvjp(_forward, _backward)
