"""Gram anchoring: the similarities of an image's patches stay those of an earlier network (DINOv3,
2508.10104, section 4.2).
"""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes()
def gram(features: Array, target: Array) -> Array:
    """Compute `mean((X X' - Y Y')^2)` over all pairs of patches of an image and all images, X and Y
    being the patches at unit length.

    Equation 2 of the paper is the sum over the pairs of one image, the squared Frobenius norm. The
    mean is that of the release (dinov3/loss/gram_loss.py, without its options that drop negative
    similarities), for which its weight of 2 holds.

    Args:
      features: (..., N, D), N patches of each image.
      target: (..., N, D'), those of the Gram teacher; no gradient flows back into them.

    Returns:
      A scalar, float32 or wider.
    """
    check_shapes("gram: features (..., N, D), target (..., N, E)", features, target)
    similarities, anchors = (
        jnp.einsum("...nd,...md->...nm", x, x, precision="highest")
        for x in (
            l2_normalize(features, floor="norm"),
            l2_normalize(jax.lax.stop_gradient(target), floor="norm"),
        )
    )
    return jnp.mean(jnp.square(similarities - anchors))
