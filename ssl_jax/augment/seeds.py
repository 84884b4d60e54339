"""Patches drawn where an image has contrast, and cut out at any place, scale and angle.

Images are (H, W, C) float32.
"""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def gradient_energy(image: Array) -> Array:
    """Compute the squared gradient of the channels' mean, (H, W), by central differences."""
    down, across = jnp.gradient(image.mean(-1))
    return jnp.square(down) + jnp.square(across)


def patch_probabilities(image: Array, patch: int) -> Array:
    """Return the probability of each patch, (H - patch + 1, W - patch + 1) by its top left pixel:
    proportional to its mean gradient energy, or uniform if the image is constant.
    """
    energy = gradient_energy(image)
    sums = jax.lax.reduce_window(energy, 0.0, jax.lax.add, (patch, patch), (1, 1), "valid")
    total = jnp.sum(sums)
    return jnp.where(total > 0, sums / jnp.where(total > 0, total, 1.0), 1 / sums.size)


def choose_patch(probabilities: Array, draw: Array) -> Array:
    """Return the top left pixel (2,) int32 of the patch at `draw`, uniform in [0, 1), of the
    cumulative probabilities, row by row.
    """
    rows = jnp.cumsum(probabilities.reshape(-1))
    position = jnp.searchsorted(rows, draw * rows[-1], side="right")
    position = jnp.minimum(position, rows.size - 1)
    return jnp.stack(jnp.divmod(position, probabilities.shape[1])).astype(jnp.int32)


def cut_patch(image: Array, centre: Array, side: Array, angle: Array, size: int) -> Array:
    """Cut out a rotated square, (size, size, C), by bilinear interpolation.

    Args:
      image: (H, W, C); its edge pixels are repeated outside of it.
      centre: (2,), (y, x) in pixels from the top left corner.
      side: side of the square in pixels of the image.
      angle: radians; positive turns the picture counter-clockwise.
      size: side of the result in pixels.
    """
    y, x = ((np.mgrid[:size, :size] + 0.5) / size - 0.5).astype(np.float32) * side
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    at = [centre[0] + cos * y + sin * x - 0.5, centre[1] - sin * y + cos * x - 0.5]
    planes = jnp.moveaxis(image, -1, 0)
    cut = jax.vmap(lambda p: jax.scipy.ndimage.map_coordinates(p, at, order=1, mode="nearest"))
    return jnp.moveaxis(cut(planes), 0, -1)
