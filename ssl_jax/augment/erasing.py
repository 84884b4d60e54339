"""Erased rectangles. Images are planes, (C, H, W) float32, with any number of channels."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

TRIES = 10


class Box(NamedTuple):
    """Rows top to bottom and columns left to right, the ends excluded; int32."""

    top: Array
    bottom: Array
    left: Array
    right: Array


def inside(box: Box, height: int, width: int) -> Array:
    """Return (H, W) bool: true in the box."""
    y, x = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    return (y >= box.top) & (y < box.bottom) & (x >= box.left) & (x < box.right)


def erase(image: Array, box: Box, value: Array | float = 0.0) -> Array:
    """Fill the box with `value`: a number, one per channel (C, 1, 1) or one per pixel."""
    return jnp.where(inside(box, *image.shape[1:]), value, image)


def centred_box(
    key: Array, height: int, width: int, box_height: Array | int, box_width: Array | int
) -> Box:
    """Draw a box around a uniformly random pixel, clipped at the image's border.

    It reaches side // 2 in each direction, as in Cutout (DeVries and Taylor 2017) and CutMix (Yun
    et al. 2019): an odd side becomes one pixel shorter.
    """
    y, x = jax.random.randint(key, (2,), 0, np.array([height, width], np.int32))
    h, w = jnp.asarray(box_height, jnp.int32) // 2, jnp.asarray(box_width, jnp.int32) // 2
    return Box(
        jnp.maximum(y - h, 0),
        jnp.minimum(y + h, height),
        jnp.maximum(x - w, 0),
        jnp.minimum(x + w, width),
    )


def cutout(key: Array, image: Array, size: int, value: Array | float = 0.0) -> Array:
    """Erase a square of side `size` around a random pixel (DeVries and Taylor 2017)."""
    _, height, width = image.shape
    return erase(image, centred_box(key, height, width, size, size), value)


def random_box(
    key: Array,
    height: int,
    width: int,
    area: tuple[float, float] = (0.02, 0.33),
    aspect: tuple[float, float] = (0.3, 3.3),
) -> Box:
    """Draw a box of a random share of the image, wholly inside; empty if ten draws do not fit.

    Random erasing (Zhong et al. 2017) as torchvision and timm draw it: uniform area, log-uniform
    height over width; draws as high or as wide as the image are rejected.
    """
    size_key, place_key = jax.random.split(key)
    draws = jax.random.uniform(size_key, (2, TRIES))
    share = area[0] + (area[1] - area[0]) * draws[0]
    log = math.log(aspect[0]) + (math.log(aspect[1]) - math.log(aspect[0])) * draws[1]
    h = jnp.round(jnp.sqrt(height * width * share * jnp.exp(log))).astype(jnp.int32)
    w = jnp.round(jnp.sqrt(height * width * share * jnp.exp(-log))).astype(jnp.int32)
    fits = (h < height) & (w < width)
    first = jnp.argmax(fits)
    h, w = (jnp.where(fits[first], side[first], 0) for side in (h, w))
    top, left = jax.random.randint(place_key, (2,), 0, jnp.stack([height - h + 1, width - w + 1]))
    return Box(top, top + h, left, left + w)
