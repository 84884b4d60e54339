"""Blur and sharpness. Images are planes, (C, H, W) float32 in [0, 1], of any number of channels."""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def blur_radius(size: int) -> int:
    """Return the radius in pixels of SimCLR's and BYOL's blur for this image side: 224 -> 11,
    32 -> 1.
    """
    return (size // 10) // 2


def gaussian_blur(image: Array, sigma: Array, radius: int, serial: bool = False) -> Array:
    """Convolve with a normalised Gaussian, cut off at `radius`, with zero padding.

    Args:
      image: (C, H, W).
      sigma: standard deviation in pixels.
      radius: pixels; 0 is no blur.
      serial: compute a sum of shifted images, for a loop over images on a CPU (see `recipes`).
        Otherwise compute two products with a banded matrix, which are fast on a TPU, also with a
        different kernel for every image.
    """
    if radius == 0:
        return image
    return _shifted_sums(image, sigma, radius) if serial else _products(image, sigma, radius)


def sharpness(image: Array, factor: Array) -> Array:
    """Blend with a smoothed copy: 0 is smooth, 1 the image, 2 sharper; clipped to [0, 1].

    The smoothed copy is that of Pillow's `ImageEnhance.Sharpness`: a 3 x 3 mean whose centre counts
    five times, with an unchanged border.
    """
    total = 4.0 * image[:, 1:-1, 1:-1]
    height, width = image.shape[1:]
    for y in range(3):
        for x in range(3):
            total = total + image[:, y : height - 2 + y, x : width - 2 + x]
    smooth = image.at[:, 1:-1, 1:-1].set(total / 13.0)
    return jnp.clip(smooth + factor * (image - smooth), 0.0, 1.0)


def _gaussian(distance: np.ndarray, sigma: Array) -> Array:
    return jnp.exp(-np.square(distance, dtype=np.float32) / (2.0 * sigma**2))


def _products(image: Array, sigma: Array, radius: int) -> Array:
    total = _gaussian(np.arange(-radius, radius + 1), sigma).sum()

    def band(size: int) -> Array:
        distance = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
        return jnp.where(distance <= radius, _gaussian(distance, sigma) / total, 0.0)

    def times(a: Array, b: Array) -> Array:
        return jnp.matmul(a, b, precision=jax.lax.Precision.HIGH)

    return times(times(band(image.shape[1]), image), band(image.shape[2]))


def _shifted_sums(image: Array, sigma: Array, radius: int) -> Array:
    half = _gaussian(np.arange(radius + 1), sigma)
    # The barriers keep XLA from fusing earlier operations into the sums, computing them per tap.
    tap = jax.lax.optimization_barrier(half / (2.0 * half.sum() - half[0]))
    height, width = image.shape[1:]
    margin = ((0, 0), (radius, radius), (radius, radius))
    padded = jax.lax.optimization_barrier(jnp.pad(image, margin))

    def row(shift: int) -> Array:
        return padded[:, radius + shift : radius + shift + height]

    def column(shift: int) -> Array:
        return columns[:, :, radius + shift : radius + shift + width]

    total = tap[0] * row(0)
    for i in range(1, radius + 1):
        total = total + tap[i] * (row(i) + row(-i))
    columns = jax.lax.optimization_barrier(total)
    total = tap[0] * column(0)
    for i in range(1, radius + 1):
        total = total + tap[i] * (column(i) + column(-i))
    return total
