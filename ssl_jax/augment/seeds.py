"""Patches drawn where an image has contrast, the seeds of Exemplar-CNN (1406.6909), and cut out at
any place, scale and angle.

Images are (H, W, C) float32.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment import photometric
from ssl_jax.core import rng

Array = jax.Array
Bounds = tuple[float, float]


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


def draw_seed(key: Array, image: Array, patch: int, scale: float) -> tuple[Array, Array]:
    """Draw the seed of an image, a square in it: its centre (2,) and its side, in pixels.

    The place is drawn by `patch_probabilities`; the side is `patch` times a number from 1 to
    `scale`, log-uniform.
    """
    place, size = jax.random.split(key)
    corner = choose_patch(patch_probabilities(image, patch), jax.random.uniform(place))
    side = patch * rng.log_uniform(size, (1.0, scale))
    sides = np.array(image.shape[:2], np.float32)
    room = jnp.minimum(side, sides) / 2
    return jnp.clip(corner + patch / 2, room, sides - room), side


def transform_seed(
    key: Array,
    image: Array,
    centre: Array,
    side: Array,
    patch: int,
    *,
    translation: float,
    scale: Bounds,
    rotation: float,
    contrast: Bounds,
    hue: float,
    power: Bounds,
    factor: Bounds,
    offset: float,
) -> Array:
    """Cut a seed out of an image with values in [0, 1] and apply the six random transformations of
    Exemplar-CNN (section 2.1): (patch, patch, C) in [0, 1].

    Args:
      centre, side: see `draw_seed`.
      translation: largest shift along either axis as a share of the side.
      scale: range of the scale, log-uniform.
      rotation: largest angle in degrees.
      contrast: range of the factor of each principal colour, log-uniform.
      hue, power, factor, offset: see `photometric.random_hsv_noise`.
    """
    shift, zoom, angle, colors, noise = jax.random.split(key, 5)
    moved = centre + side * rng.symmetric(shift, translation, (2,))
    side = side / rng.log_uniform(zoom, scale)  # a larger object is a smaller square
    turn = rng.symmetric(angle, np.deg2rad(rotation).item())
    planes = jnp.moveaxis(cut_patch(image, moved, side, turn, patch), -1, 0)
    factors = rng.log_uniform(colors, contrast, (len(planes),))
    planes = jnp.clip(photometric.principal_contrast(planes, factors), 0.0, 1.0)
    noisy = photometric.random_hsv_noise(noise, planes, hue, power, factor, offset)
    return jnp.moveaxis(noisy, 0, -1)
