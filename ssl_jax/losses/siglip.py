"""The sigmoid loss between two modalities: SigLIP (2303.15343, section 3.2)."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.large_batch.similarity import Similarity, sum_softplus
from ssl_jax.losses.normalize import as_float, l2_normalize
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes(1)
def siglip(
    image: Array,
    text: Array,
    scale: float | Array,
    bias: float | Array,
    *,
    normalize: bool = True,
    similarity: Similarity = "auto",
) -> Array:
    """Binary classification of each of the B^2 pairs as matching or not, summed for each image.

    With `l(i, j) = scale s(i, j) + bias` the value of image i is
    `-log sigmoid(l(i, i)) - sum_{j != i} log sigmoid(-l(i, j))`.

    Args:
      image, text: (B, d); row i of `image` belongs to row i of `text`.
      scale: t; learned from 10 in the paper.
      bias: b; learned from -10 in the paper, so that the many negatives start with little loss.
      normalize: s is the cosine; else the plain inner product.
      similarity: how the (B, B) similarities are computed; see `losses.large_batch.similarity`.

    Returns:
      (B,), one value per image, in at least float32; the loss is their mean, a sum over B^2 pairs
      divided by B.

    Raises:
      ValueError: not two matrices of one shape; see also `losses.large_batch.similarity`.
    """
    check_shapes("siglip: image, text (B, d)", image, text)
    image, text = (l2_normalize(x) if normalize else as_float(x) for x in (image, text))
    # The bias is one more feature, 1 for all texts: its gradient comes with that of the images.
    ones = jnp.ones_like(text[:, :1])
    image = jnp.concatenate([scale * image, bias * ones], axis=1)
    text = jnp.concatenate([text, ones], axis=1)
    # All pairs as if none matched: softplus(l). A matching pair has softplus(-l) = softplus(l) - l.
    return sum_softplus(image, text, similarity=similarity) - jnp.sum(image * text, axis=1)
