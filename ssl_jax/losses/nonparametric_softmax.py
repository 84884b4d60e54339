"""Softmax over all examples of a data set, each a class with one stored vector."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.large_batch.similarity import Similarity, log_sum_exp
from ssl_jax.losses.normalize import as_float
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes()
def nonparametric_softmax(
    features: Array,
    memory: Array,
    index: Array,
    temperature: float | Array,
    present: Array | None = None,
    *,
    similarity: Similarity = "auto",
) -> Array:
    """`mean_b(-f.v_b / t + log sum_i exp(f.v_i / t))`; a scalar (1805.01978, equation 2).

    Args:
      features: (B, d), unit vectors.
      memory: (R, d), one row per class. No gradient flows into it.
      index: (B,) int, each example's own row.
      temperature: t > 0.
      present: (R,) bool; False for rows of padding.
      similarity: how the (B, R) scores are computed; see `losses.large_batch.similarity`.
    """
    expected = "nonparametric_softmax: features (B, d), memory (R, d), index (B) int, present (R)"
    check_shapes(expected, features, memory, index, present)
    features, memory = as_float(features), jax.lax.stop_gradient(as_float(memory))
    features = features / temperature
    own = jnp.sum(features * memory[index], axis=-1)
    if present is not None:  # one more feature lowers the scores of padding to where exp is 0
        memory = jnp.append(memory, jnp.where(present, 0, -1e30)[:, None], axis=1)
        features = jnp.pad(features, ((0, 0), (0, 1)), constant_values=1)
    return jnp.mean(log_sum_exp(features, memory, similarity=similarity) - own)
