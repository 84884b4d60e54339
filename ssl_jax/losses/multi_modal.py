"""Losses between the modalities of a clip, and their weighted sum (evolving losses, Piergiovanni et
al. 2020, arXiv:2002.12177). No code was released; the forms are those of the paper's section 3.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float

Array = jax.Array


@any_axes(...)
def binary(logits: Array, labels: Array) -> Array:
    """`softplus(z) - y z`, the cross-entropy of a yes-no question, for each entry; at least float32.

    Args:
      logits: z, (...).
      labels: y, (...), 1 for yes and 0 for no.
    """
    z = as_float(logits)
    return jax.nn.softplus(z) - labels * z


@any_axes(1)
def margin_contrast(z: Array, positive: Array, negative: Array, margin: float = 1.0) -> Array:
    """`|z - z+|^2 + max(0, a - |z - z-|^2)` for each row, in at least float32.

    Args:
      z: (B, d), embeddings of one modality.
      positive: z+, (B, d), those of another modality of the same clips.
      negative: z-, (B, d), those of other clips.
      margin: a.
    """
    z, near, far = as_float(z), as_float(positive), as_float(negative)
    apart = jnp.sum(jnp.square(z - far), axis=-1)
    return jnp.sum(jnp.square(z - near), axis=-1) + jax.nn.relu(margin - apart)


@any_axes(1)
def feature_distance(student: Array, teacher: Array) -> Array:
    """`|s - t|^2`, summed over the dimensions, for each row, in at least float32. The teacher gets
    no gradient.

    Args:
      student, teacher: (B, d).
    """
    return jnp.sum(jnp.square(as_float(student) - jax.lax.stop_gradient(as_float(teacher))), -1)


@any_axes()
def weighted_sum(losses: Sequence[Array], weights: Sequence[float | Array]) -> Array:
    """`sum_t w_t l_t`, a scalar, float32 or wider. A loss of weight 0 adds exactly 0, even if it is
    not finite, and gets a gradient of exactly 0; see `switched` for what lies before it.
    """
    pairs = zip(losses, weights, strict=True)
    # Selected before the product: 0 times infinity is no number.
    return sum(w * jnp.where(w != 0, as_float(loss), 0) for loss, w in pairs)  # type: ignore[return-value]


@any_axes(...)
def switched(values: Array, weight: float | Array) -> Array:
    """`values`, unchanged; their gradient is exactly 0 if the weight is 0, even where the functions
    applied to them have a derivative that is not finite.

    Args:
      values: (...), inputs or parameters of a task.
      weight: the task's weight, a scalar.
    """
    return _switched(values, jnp.asarray(weight))


@jax.custom_vjp
def _switched(values: Array, weight: Array) -> Array:
    del weight
    return values


def _forward(values: Array, weight: Array) -> tuple[Array, Array]:
    return values, weight


def _backward(weight: Array, gradient: Array) -> tuple[Array, Array]:
    return jnp.where(weight != 0, gradient, 0), jnp.zeros_like(weight)


_switched.defvjp(_forward, _backward)
