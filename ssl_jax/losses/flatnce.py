"""FlatNCE (2107.01152)."""

import jax
import jax.numpy as jnp

from ssl_jax.losses import pairs
from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.large_batch.similarity import Similarity
from ssl_jax.losses.normalize import as_float, l2_normalize
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes()
def flatnce(
    z: Array,
    temperature: float | Array,
    *,
    normalize: bool = True,
    similarity: Similarity = "auto",
) -> Array:
    """InfoNCE in value, FlatNCE in gradient; a scalar.

    With `v = log sum_j exp((s_j - s+)/t)` over an anchor's negatives only, FlatNCE is
    `exp(v - stop(v))`: always 1, with the gradient of v, which does not vanish as the positive
    wins.
    The value reported is that of InfoNCE, `log(1 + exp(v))`, without gradient, as in the released
    code (Junya-Chen/FlatCLR, flatclr.py). Both are means over the 2B rows.

    Args:
      z: (2B, d), example-major: rows 2i and 2i + 1 are the two views of example i.
      temperature: t > 0.
      normalize: s is the cosine; else the plain inner product.
      similarity: how the (2B, 2B) similarities are computed; see `losses.large_batch.similarity`.

    Raises:
      ValueError: not (2B, d); see also `losses.large_batch.similarity`.
    """
    check_shapes("flatnce: z (2B, d) with two rows per example", z)
    z = l2_normalize(z, floor="norm") if normalize else as_float(z)
    z /= jnp.sqrt(jnp.asarray(temperature, z.dtype))
    v = pairs.negatives(z, similarity) - pairs.positive(z)
    infonce = jax.nn.softplus(jax.lax.stop_gradient(v))
    return jnp.mean(infonce + (v - jax.lax.stop_gradient(v)))  # the difference is exactly 0
