"""Decoupled contrastive learning, DCL and DCLW (2110.06848)."""

import jax
import jax.numpy as jnp

from ssl_jax.losses import pairs
from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.large_batch.similarity import Similarity
from ssl_jax.losses.normalize import as_float, l2_normalize
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes()
def decoupled(
    z: Array,
    temperature: float | Array,
    sigma: float | None = None,
    *,
    normalize: bool = True,
    similarity: Similarity = "auto",
) -> Array:
    """NT-Xent without the positive in the denominator; a scalar, the mean over the 2B rows.

    `-w s+/t + log sum_j exp(s_j/t)` over the 2B - 2 rows j of other examples. With `sigma` (DCLW) w
    is the negative von Mises-Fisher weight `2 - B softmax_i(s+_i / sigma)` of example i among all:
    pairs that are still far apart weigh more. Without it (DCL) w = 1 and the gradient is that of
    `flatnce`.

    Args:
      z: (2B, d), example-major: rows 2i and 2i + 1 are the two views of example i.
      temperature: t > 0.
      sigma: > 0; 0.5 in the released code.
      normalize: s is the cosine; else the plain inner product.
      similarity: how the (2B, 2B) similarities are computed; see `losses.large_batch.similarity`.

    Raises:
      ValueError: not (2B, d); see also `losses.large_batch.similarity`.
    """
    check_shapes("decoupled: z (2B, d) with two rows per example", z)
    z = l2_normalize(z, floor="norm") if normalize else as_float(z)
    z /= jnp.sqrt(jnp.asarray(temperature, z.dtype))
    positive = jnp.sum(z[0::2] * z[1::2], axis=1)
    negatives = pairs.negatives(z, similarity).reshape(-1, 2)
    if sigma is not None:
        positive *= 2 - positive.size * jax.nn.softmax(positive * temperature / sigma)
    return jnp.mean(negatives - positive[:, None])  # the means alone are large, and would cancel
