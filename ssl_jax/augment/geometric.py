"""Flips, rotations and affine maps. Images are (H, W, C) float32."""

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.chain import Padding

Array = jax.Array


def flip(image: Array) -> Array:
    """Mirror the image left to right."""
    return image[:, ::-1]


def affine_matrix(angle: Array, log_scale: Array, shear: Array, shift: Array) -> Array:
    """Return the (2, 3) map of output to input positions, (y, x) in pixels from the image's centre.

    Args:
      angle: radians; positive turns the picture counter-clockwise.
      log_scale: (2,) for (y, x); positive enlarges the picture.
      shear: shifts each row by `shear` times its height above the centre.
      shift: (2,) pixels by which the picture moves down and right.
    """
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    turn = jnp.array([[cos, sin], [-sin, cos]])
    lean = jnp.eye(2, dtype=jnp.float32).at[1, 0].set(shear)
    linear = (lean @ turn) * jnp.exp(-log_scale)[:, None]
    return jnp.concatenate([linear, -(linear @ shift)[:, None]], axis=1)


def warp(image: Array, matrix: Array, padding: Padding = "zero") -> Array:
    """Resample bilinearly: the output at p is the input at `matrix` p (see `affine_matrix`).

    Positions outside of the image read zeros or its edge pixels.
    """
    height, width, channels = image.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y, x = y - (height - 1) / 2, x - (width - 1) / 2
    at = matrix[:, 0, None, None] * y + matrix[:, 1, None, None] * x + matrix[:, 2, None, None]
    padded = jnp.pad(
        image, ((1, 2), (1, 2), (0, 0)), mode="edge" if padding == "edge" else "constant"
    )
    # Everything beyond the border is padding, so positions can be clipped to the border.
    sy = jnp.clip(at[0] + (height + 1) / 2, 0, height + 1)
    sx = jnp.clip(at[1] + (width + 1) / 2, 0, width + 1)
    top, left = jnp.floor(sy).astype(jnp.int32), jnp.floor(sx).astype(jnp.int32)
    fy, fx = (sy - top)[..., None], (sx - left)[..., None]
    row = width + 3
    pixels = padded.reshape(-1, channels)
    first = top * row + left

    def corner(offset: int) -> Array:  # 4 gathers of C: 5 times faster on a CPU than one of 4C
        return pixels.at[first + offset].get(mode="promise_in_bounds")

    above = corner(0) * (1 - fx) + corner(1) * fx
    below = corner(row) * (1 - fx) + corner(row + 1) * fx
    return above * (1 - fy) + below * fy


def rotate90(image: Array, quarters: Array) -> Array:
    """Rotate a square image counter-clockwise by `quarters` (0 to 3) right angles, exactly."""
    return jax.lax.select_n(quarters.astype(jnp.int32), *(jnp.rot90(image, k) for k in range(4)))


def rotations(image: Array) -> Array:
    """Stack a square image rotated counter-clockwise by 0, 90, 180, 270 degrees: (4, H, W, C)."""
    return jnp.stack([jnp.rot90(image, k) for k in range(4)])
