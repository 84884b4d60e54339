"""The symmetric contrastive loss between two modalities: CLIP (2103.00020, figure 3)."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.normalize import as_float, l2_normalize

Array = jax.Array


def clip_loss(
    image: Array, text: Array, scale: float | Array, *, normalize: bool = True
) -> tuple[Array, Array]:
    """Mean of the cross-entropies image -> text and text -> image, and the logits; (), (B, B).

    Row i of one belongs to row i of the other; all other rows of the batch are its negatives. Over
    a sharded batch the compiler gathers the embeddings, with gradients through both sides.

    Args:
      image, text: (B, d).
      scale: what the similarities are multiplied by, 1 / temperature: its gradient is exact.
      normalize: the similarity is the cosine; else the plain inner product.

    Raises:
      ValueError: not two matrices of one shape.
    """
    if image.ndim != 2 or image.shape != text.shape:
        raise ValueError(
            f"clip_loss wants two (B, d) of one shape; got {image.shape}, {text.shape}"
        )
    image, text = (l2_normalize(x) if normalize else as_float(x) for x in (image, text))
    logits = scale * jnp.matmul(image, text.T, precision="highest")
    pairs = jnp.diagonal(logits)
    rows, columns = (jax.nn.logsumexp(logits, axis) for axis in (1, 0))
    return jnp.mean(rows + columns) / 2 - jnp.mean(pairs), logits
