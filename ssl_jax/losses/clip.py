"""The symmetric contrastive loss between two modalities: CLIP (2103.00020, figure 3)."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.large_batch.similarity import Similarity, log_sum_exp
from ssl_jax.losses.normalize import as_float, l2_normalize
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes(1)
def clip_loss(
    image: Array,
    text: Array,
    scale: float | Array,
    *,
    normalize: bool = True,
    similarity: Similarity = "auto",
) -> Array:
    """Mean of the cross-entropies image -> text and text -> image of each pair.

    Row i of `image` belongs to row i of `text`; all other rows of the batch are its negatives, with
    gradients through both sides.

    Args:
      image, text: (B, d).
      scale: factor of the similarities, 1 / temperature; its gradient is exact.
      normalize: use the cosine as the similarity; else the plain inner product.
      similarity: how the (B, B) similarities are computed; see `losses.large_batch.similarity`.

    Returns:
      (B,), one value per pair, in at least float32; the loss is their mean.

    Raises:
      ValueError: not two matrices of one shape; see also `losses.large_batch.similarity`.
    """
    check_shapes("clip_loss: image, text (B, d)", image, text)
    image, text = (l2_normalize(x) if normalize else as_float(x) for x in (image, text))
    image = scale * image
    rows, columns = log_sum_exp(image, text, columns=True, similarity=similarity)
    return (rows + columns) / 2 - jnp.sum(image * text, axis=1)
