"""Losses at the masked part of an image: of pixels (MAE, SimMIM) and of tokens (iBOT, I-JEPA,
V-JEPA, data2vec, DeepMIM).
"""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.negative_cosine import regression_loss
from ssl_jax.losses.normalize import as_float
from ssl_jax.losses.shapes import check_shapes
from ssl_jax.losses.smooth_l1 import smooth_l1

Array = jax.Array


@any_axes(...)
def normalize_patches(patches: Array, eps: float = 1e-6) -> Array:
    """Normalise each patch by its mean and standard deviation (MAE); (..., n), float32 or wider.

    `(x - mean) / sqrt(var + eps)` with the unbiased (n - 1) variance, as the released code has it.
    """
    check_shapes("normalize_patches: patches (..., n)", patches)
    x = as_float(patches)
    mean = jnp.mean(x, axis=-1, keepdims=True)
    return (x - mean) / jnp.sqrt(jnp.var(x, axis=-1, keepdims=True, ddof=1) + eps)


@any_axes()
def masked_mse(prediction: Array, target: Array, mask: Array) -> Array:
    """Mean squared error over the masked patches of the whole batch (MAE, arXiv:2111.06377).

    A scalar, float32 or wider.

    Args:
      prediction, target: (B, L, n).
      mask: (B, L), 1 or True where a patch was removed. Nothing masked gives 0.
    """
    check_shapes(
        "masked_mse: prediction, target (..., L, n), mask (..., L)", prediction, target, mask
    )
    return _masked_mean(jnp.square(as_float(prediction) - as_float(target)), mask)


@any_axes()
def masked_smooth_l1(prediction: Array, target: Array, mask: Array, beta: float = 1.0) -> Array:
    """Mean of `smooth_l1` over the masked tokens of the whole batch and their channels (I-JEPA,
    data2vec); a scalar, float32 or wider.

    Args:
      prediction, target: (..., L, D).
      mask: (..., L), 1 or True where a token counts. Nothing masked gives 0.
      beta: error at which the square becomes linear; 0 for the plain square.
    """
    check_shapes(
        "masked_smooth_l1: prediction, target (..., L, D), mask (..., L)", prediction, target, mask
    )
    return _masked_mean(smooth_l1(prediction, target, beta), mask)


@any_axes()
def masked_cosine(prediction: Array, target: Array, mask: Array) -> Array:
    """Mean of `2 - 2 cos` over the masked tokens of the whole batch (DeepMIM, arXiv:2303.08817).

    A scalar in [0, 4], float32 or wider.

    Args:
      prediction, target: (B, L, D).
      mask: (B, L), 1 or True where a token was hidden. Nothing masked gives 0.
    """
    check_shapes(
        "masked_cosine: prediction, target (..., L, D), mask (..., L)", prediction, target, mask
    )
    return _masked_mean(regression_loss(prediction, target)[..., None], mask)


@any_axes()
def masked_token_l1(prediction: Array, target: Array, mask: Array) -> Array:
    """Mean absolute error over the masked tokens of the whole batch and their channels (V-JEPA,
    arXiv:2404.08471, equation 1); a scalar, float32 or wider.

    Args:
      prediction, target: (..., L, D).
      mask: (..., L), 1 or True where a token counts. Nothing masked gives 0.
    """
    check_shapes(
        "masked_token_l1: prediction, target (..., L, D), mask (..., L)", prediction, target, mask
    )
    return _masked_mean(jnp.abs(as_float(prediction) - as_float(target)), mask)


@any_axes()
def masked_l1(prediction: Array, target: Array, mask: Array, eps: float = 1e-5) -> Array:
    """Mean absolute error over the masked pixels of the batch (SimMIM, arXiv:2111.09886); a scalar.

    `sum(|x - y| m) / (sum(m) + eps) / C`, where m counts a pixel once, not once per channel
    (microsoft/SimMIM, models/simmim.py). Float32 or wider; nothing masked gives 0.

    Args:
      prediction, target: images (B, H, W, C).
      mask: (B, r, c), 1 or True where a cell was masked; H and W are multiples of r and c.

    Raises:
      ValueError: the cells do not tile the image.
    """
    check_shapes(
        "masked_l1: prediction, target (B, H, W, C), mask (B, r, c)", prediction, target, mask
    )
    _, height, width, channels = prediction.shape
    rows, columns = mask.shape[1:]
    if height % rows or width % columns:
        raise ValueError(
            f"masked_l1: {rows} x {columns} cells do not tile an image of {height}x{width}"
        )
    error = jnp.abs(as_float(prediction) - as_float(target))
    mask = mask.astype(error.dtype).repeat(height // rows, axis=1).repeat(width // columns, axis=2)
    return jnp.sum(error * mask[..., None]) / (jnp.sum(mask) + eps) / channels


@any_axes()
def masked_patch_loss(targets: Array, logits: Array, mask: Array) -> Array:
    """Cross-entropy at the hidden patches: the mean within each image, then over the images.

    Equation 2 of iBOT (arXiv:2111.07832), also the patch loss of DINOv2 (arXiv:2304.07193). An
    image without hidden patches counts as 0, as released.

    Args:
      targets: (..., N, K), probabilities of N patches.
      logits: (..., N, K), divided by their temperature.
      mask: (..., N), 1 or True where a patch was hidden.

    Returns:
      A scalar, float32 or wider.
    """
    check_shapes(
        "masked_patch_loss: targets, logits (..., N, K), mask (..., N)", targets, logits, mask
    )
    entropy = -jnp.sum(as_float(targets) * jax.nn.log_softmax(as_float(logits)), axis=-1)
    mask = mask.astype(entropy.dtype)
    each = jnp.sum(entropy * mask, axis=-1) / jnp.maximum(jnp.sum(mask, axis=-1), 1)
    return jnp.mean(each)


def _masked_mean(error: Array, mask: Array) -> Array:
    """Average errors (..., L, n) over n, and then over the tokens in `mask` (..., L)."""
    mask = mask.astype(error.dtype)
    return jnp.sum(jnp.mean(error, axis=-1) * mask) / jnp.maximum(jnp.sum(mask), 1.0)
