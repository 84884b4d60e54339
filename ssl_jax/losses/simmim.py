"""Pixel regression of the masked part of an image: the loss of SimMIM (2111.09886)."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float

Array = jax.Array


@any_axes()
def masked_l1(prediction: Array, target: Array, mask: Array, eps: float = 1e-5) -> Array:
    """Mean absolute error over the values of the masked pixels of the batch; a scalar.

    `sum(|x - y| m) / (sum(m) + eps) / C`, where m counts a pixel once, not once per channel
    (microsoft/SimMIM, models/simmim.py). Float32 or wider; nothing masked gives 0.

    Args:
      prediction, target: images (B, H, W, C).
      mask: (B, r, c), 1 or True where a cell was masked; H and W are multiples of r and c.

    Raises:
      ValueError: the cells do not tile the image.
    """
    _, height, width, channels = prediction.shape
    rows, columns = mask.shape[1:]
    if height % rows or width % columns:
        raise ValueError(f"{rows} x {columns} cells do not tile an image of {height}x{width}")
    error = jnp.abs(as_float(prediction) - as_float(target))
    mask = mask.astype(error.dtype).repeat(height // rows, axis=1).repeat(width // columns, axis=2)
    return jnp.sum(error * mask[..., None]) / (jnp.sum(mask) + eps) / channels
