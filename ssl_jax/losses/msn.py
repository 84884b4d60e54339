"""Assignments to prototypes of masked siamese networks (MSN, 2204.07141, section 3)."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float
from ssl_jax.losses.shapes import check_shapes
from ssl_jax.losses.sinkhorn import sinkhorn

Array = jax.Array


@any_axes(...)
def sharpened(logits: Array, temperature: float | Array, iterations: int = 0) -> Array:
    """Targets `p^(1/T) / sum_k p_k^(1/T)` of the probabilities `p = softmax(logits)`: T < 1 favours
    the likely prototypes. No gradient.

    Args:
      logits: (..., K).
      temperature: T > 0.
      iterations: of Sinkhorn-Knopp over all rows afterwards, which spreads them evenly over the
        prototypes; 0 for none.

    Returns:
      (..., K) in at least float32, rows of sum 1.
    """
    check_shapes("sharpened: logits (..., K)", logits)
    logits = jax.lax.stop_gradient(as_float(logits)) / temperature
    if not iterations:
        return jax.nn.softmax(logits)
    # The first columns' sums depend on the scale of the rows: these are probabilities, as released.
    rows = jax.nn.log_softmax(logits).reshape(-1, logits.shape[-1])
    return sinkhorn(rows, 1.0, iterations).reshape(logits.shape)


@any_axes()
def log_mean_probability(logits: Array) -> Array:
    """Logarithm of the mean of `softmax(logits)` over all rows, (..., K) -> (K,)."""
    check_shapes("log_mean_probability: logits (..., K)", logits)
    rows = jax.nn.log_softmax(as_float(logits)).reshape(-1, logits.shape[-1])
    return jax.nn.logsumexp(rows, axis=0) - jnp.log(rows.shape[0])
