"""NT-Xent, the contrastive loss of SimCLR (2002.05709, equation 1)."""

from typing import Literal

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.large_batch.similarity import Similarity, log_sum_exp
from ssl_jax.losses.normalize import as_float, l2_normalize
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes()
def ntxent(
    z: Array,
    temperature: float | Array,
    negatives: Array | None = None,
    *,
    normalize: bool = True,
    reduction: Literal["mean", "simclr"] = "mean",
    similarity: Similarity = "auto",
) -> Array:
    """Normalised-temperature cross-entropy over the two views of each of B examples; a scalar.

    Each row is an anchor; its candidates are the other 2B - 1 rows and the right one is the other
    view of the same example: `mean_i(-s(i, i^1)/t + log sum_{j != i} exp(s(i, j)/t))`. All rows are
    in one array; over a sharded batch the candidates lie on all devices, with gradients through
    both sides.

    Args:
      z: (2B, d), example-major: rows 2i and 2i + 1 are the two views of example i.
      temperature: t > 0; an array if it is learned.
      negatives: (K, d), further candidates of every row, used as they are: with `normalize` they
        must already have unit length (SimCLR v2's memory, 2006.10029).
      normalize: s is the cosine; else the plain inner product.
      reduction: "mean" over the 2B anchors, as in the paper. "simclr" is the sum of the means of
        the two directions, twice that, as in the released code and its learning rates.
      similarity: whether the (2B, 2B) similarities are held; see `losses.large_batch.similarity`.

    Raises:
      ValueError: an odd number of rows, or not a matrix; see also `losses.large_batch.similarity`.
    """
    check_shapes("ntxent: negatives (K, d), z (2B, d) with two rows per example", negatives, z)
    z = l2_normalize(z) if normalize else as_float(z)
    root = jnp.sqrt(jnp.asarray(temperature, z.dtype))
    z /= root
    candidates = log_sum_exp(z, similarity=similarity)
    if negatives is not None:
        others = log_sum_exp(z / root, as_float(negatives), similarity=similarity)
        candidates = jnp.logaddexp(candidates, others)
    positive = jnp.sum(z[0::2] * z[1::2], axis=1)
    loss = jnp.mean(candidates) - jnp.mean(positive)
    return 2 * loss if reduction == "simclr" else loss
