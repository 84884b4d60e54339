"""PatchNCE: InfoNCE between the places of an image and of its translation (2007.15651)."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array
SELF = -10.0  # cosine in place of the positive's among the negatives


@any_axes(1)
def patch_nce(
    query: Array, key: Array, temperature: float = 0.07, *, across_images: bool = False
) -> Array:
    """Cross-entropy of picking, for each place of a translated image, the same place of the source
    among other places of the source: equation 3 of the paper.

    Rows should have unit length. The negatives are internal: places of the same image. The release
    keeps the positive's column among them with a cosine of -10 before the division by the
    temperature (models/patchnce.py), which adds `exp(-10 / temperature)` to the sum, and so does
    this. The keys get no gradient.

    Args:
      query, key: (B, P, C), P places of each of B images, the same places in both.
      temperature: of the softmax, positive.
      across_images: the places of all images of the batch are negatives
        (nce_includes_all_negatives_from_minibatch of the release).

    Returns:
      (B, P), one value per place, in at least float32.

    Raises:
      ValueError: not two arrays of one shape (B, P, C).
    """
    check_shapes("patch_nce: query, key (B, P, C)", query, key)
    shape = query.shape[:2]
    query, key = as_float(query), jax.lax.stop_gradient(as_float(key))
    if across_images:
        query, key = (x.reshape(1, -1, x.shape[-1]) for x in (query, key))
    positive = jnp.sum(query * key, axis=-1)
    cosines = jnp.einsum("bqc,bkc->bqk", query, key)
    negatives = jnp.where(jnp.eye(cosines.shape[-1], dtype=bool), SELF, cosines)
    every = jnp.concatenate([positive[..., None], negatives], axis=-1) / temperature
    losses = jax.nn.logsumexp(every, axis=-1) - positive / temperature
    return losses.reshape(shape)
