"""The sigmoid loss between two modalities: SigLIP (2303.15343, section 3.2)."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.large_batch.similarity import Similarity, sum_softplus
from ssl_jax.losses.normalize import as_float, l2_normalize

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
    """Is this the image's text, asked of each of the B^2 pairs by itself, for each image.

    With `l(i, j) = scale s(i, j) + bias` the value of image i is
    `-log sigmoid(l(i, i)) - sum_{j != i} log sigmoid(-l(i, j))`.

    Args:
      image, text: (B, d); row i of one belongs to row i of the other.
      scale: t, published as learned from 10.
      bias: b, published as learned from -10, so that the many negatives begin with little loss.
      normalize: s is the cosine; else the plain inner product.
      similarity: whether the (B, B) similarities are held; see `losses.similarity`.

    Returns:
      (B,), one value an image, in at least float32; the loss is their mean, a sum over B^2 pairs
      divided by B.

    Raises:
      ValueError: not two matrices of one shape; see also `losses.similarity`.
    """
    if image.ndim != 2 or image.shape != text.shape:
        raise ValueError(f"siglip wants two (B, d) of one shape; got {image.shape}, {text.shape}")
    image, text = (l2_normalize(x) if normalize else as_float(x) for x in (image, text))
    # The bias is one more feature, which all texts have: its gradient comes with the images'.
    ones = jnp.ones_like(text[:, :1])
    image = jnp.concatenate([scale * image, bias * ones], axis=1)
    text = jnp.concatenate([text, ones], axis=1)
    # All pairs as if none belonged together: softplus(l); what does, has softplus(-l) instead.
    return sum_softplus(image, text, similarity=similarity) - jnp.sum(image * text, axis=1)
