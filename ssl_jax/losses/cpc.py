"""InfoNCE over the positions of a grid of patches: CPC (1807.03748, section 3.2; v2 1905.09272)."""

import chex
import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.large_batch.similarity import Similarity, log_sum_exp
from ssl_jax.losses.normalize import as_float
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes(1)
def cpc(prediction: Array, target: Array, offset: int, *, similarity: Similarity = "auto") -> Array:
    """Cross-entropy of picking the patch `offset` rows below, in the same column, among all patches
    of all images of the batch.

    `-z.p + log sum_c exp(c.p)` of each prediction p, its target z and all B h w targets c: inner
    products without normalisation or temperature, with gradients to both. For another direction,
    rotate both grids.

    Args:
      prediction: (B, h, w, d), at each position, of the target `offset` rows below it. The last
        `offset` rows predict nothing and are not read.
      target: (B, h, w, d).
      offset: rows, in 1 .. h - 1.
      similarity: how the (B (h - offset) w, B h w) scores are computed; see
        `losses.large_batch.similarity`.

    Returns:
      (B, h - offset, w), one value per prediction, in at least float32.

    Raises:
      ValueError: not two grids of one shape, or an offset beyond them.
    """
    check_shapes("cpc: prediction, target (B, h, w, d)", prediction, target)
    rows = target.shape[1]
    expected = f"cpc: expected an offset in 1 .. {rows - 1}, got {offset}"
    chex.assert_scalar_in(offset, 1, rows - 1, custom_message=expected, exception_type=ValueError)
    prediction, target = as_float(prediction)[:, : rows - offset], as_float(target)
    flat = lambda grid: grid.reshape(-1, grid.shape[-1])  # noqa: E731
    candidates = log_sum_exp(flat(prediction), flat(target), similarity=similarity)
    return candidates.reshape(prediction.shape[:3]) - jnp.sum(
        prediction * target[:, offset:], axis=-1
    )
