"""Self-distillation of masked patches (iBOT, 2111.07832, equation 2; DINOv2's, 2304.07193)."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float

Array = jax.Array


@any_axes()
def masked_patch_loss(targets: Array, logits: Array, mask: Array) -> Array:
    """Cross-entropy at the hidden patches: the mean within each image, then over the images.

    An image without hidden patches counts as 0, as released.

    Args:
      targets: (..., N, K), probabilities of N patches.
      logits: (..., N, K), divided by their temperature.
      mask: (..., N), 1 or True where a patch was hidden.

    Returns:
      A scalar, float32 or wider.
    """
    entropy = -jnp.sum(as_float(targets) * jax.nn.log_softmax(as_float(logits)), axis=-1)
    mask = mask.astype(entropy.dtype)
    each = jnp.sum(entropy * mask, axis=-1) / jnp.maximum(jnp.sum(mask, axis=-1), 1)
    return jnp.mean(each)
