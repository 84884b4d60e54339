"""Pixel targets of masked autoencoders (2111.06377) and the loss on the masked patches."""

import math

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float

Array = jax.Array


@any_axes(1)
def patchify(images: Array, patch: int) -> Array:
    """(B, H, W, C) -> (B, L, patch * patch * C), L patches row by row, each (row, column, channel).

    Raises:
      ValueError: H or W is not a multiple of `patch`.
    """
    b, height, width, c = images.shape
    if height % patch or width % patch:
        raise ValueError(f"patches of {patch} do not tile an image of {height}x{width}")
    rows, columns = height // patch, width // patch
    x = images.reshape(b, rows, patch, columns, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, rows * columns, patch * patch * c)


@any_axes(1)
def unpatchify(patches: Array, patch: int, grid: tuple[int, int] | None = None) -> Array:
    """The inverse of `patchify`: (B, L, patch * patch * C) -> (B, H, W, C).

    Args:
      patches: as `patchify` returns them.
      patch: side of a patch.
      grid: (rows, columns) of patches; default: a square.

    Raises:
      ValueError: the patches do not fill the grid.
    """
    b, length, size = patches.shape
    rows, columns = grid or (math.isqrt(length),) * 2
    if rows * columns != length or size % patch**2:
        raise ValueError(
            f"patches: {patches.shape} is not a {rows}x{columns} grid of patches of {patch}x{patch}"
        )
    x = patches.reshape(b, rows, columns, patch, patch, size // patch**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, rows * patch, columns * patch, -1)


@any_axes(...)
def normalize_patches(patches: Array, eps: float = 1e-6) -> Array:
    """Normalise each patch by its mean and standard deviation; (..., n), float32 or wider.

    `(x - mean) / sqrt(var + eps)` with the unbiased (n - 1) variance, as the released code has it.
    """
    x = as_float(patches)
    mean = jnp.mean(x, axis=-1, keepdims=True)
    return (x - mean) / jnp.sqrt(jnp.var(x, axis=-1, keepdims=True, ddof=1) + eps)


@any_axes()
def masked_mse(prediction: Array, target: Array, mask: Array) -> Array:
    """Mean squared error over the masked patches of the whole batch; a scalar, float32 or wider.

    Args:
      prediction, target: (B, L, n).
      mask: (B, L), 1 or True where a patch was removed. Nothing masked gives 0.
    """
    prediction = as_float(prediction)
    mask = mask.astype(prediction.dtype)
    error = jnp.mean(jnp.square(prediction - as_float(target)), axis=-1)
    return jnp.sum(error * mask) / jnp.maximum(jnp.sum(mask), 1.0)
