"""Softmax over all examples of a data set, each a class with one stored vector."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float

Array = jax.Array


@any_axes()
def nonparametric_softmax(
    features: Array,
    memory: Array,
    index: Array,
    temperature: float | Array,
    present: Array | None = None,
) -> Array:
    """`mean_b(-f.v_b / t + log sum_i exp(f.v_i / t))`; a scalar (1805.01978, equation 2).

    Args:
      features: (B, d), unit vectors.
      memory: (R, d), one row per class. No gradient flows into it.
      index: (B,) int, each example's own row.
      temperature: t > 0.
      present: (R,) bool; False for rows of padding.
    """
    features, memory = as_float(features), jax.lax.stop_gradient(as_float(memory))
    scores = jnp.matmul(features, memory.T, precision="highest") / temperature
    if present is not None:
        scores = jnp.where(present, scores, -jnp.inf)
    own = jnp.sum(features * memory[index], axis=-1) / temperature
    return jnp.mean(jax.nn.logsumexp(scores, axis=1) - own)
