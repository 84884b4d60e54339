"""The symmetric contrastive loss between two modalities: CLIP (2103.00020, figure 3)."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.large_batch.similarity import Similarity, log_sum_exp
from ssl_jax.losses.normalize import as_float, l2_normalize

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

    Row i of one belongs to row i of the other; all other rows of the batch are its negatives, with
    gradients through both sides.

    Args:
      image, text: (B, d).
      scale: what the similarities are multiplied by, 1 / temperature: its gradient is exact.
      normalize: the similarity is the cosine; else the plain inner product.
      similarity: whether the (B, B) similarities are held; see `losses.similarity`.

    Returns:
      (B,), one value a pair, in at least float32; the loss is their mean.

    Raises:
      ValueError: not two matrices of one shape; see also `losses.similarity`.
    """
    if image.ndim != 2 or image.shape != text.shape:
        raise ValueError(
            f"clip_loss wants two (B, d) of one shape; got {image.shape}, {text.shape}"
        )
    image, text = (l2_normalize(x) if normalize else as_float(x) for x in (image, text))
    image = scale * image
    rows, columns = log_sum_exp(image, text, columns=True, similarity=similarity)
    return (rows + columns) / 2 - jnp.sum(image * text, axis=1)
