"""RandAugment (Cubuk et al. 2019, arXiv:1909.13719) as timm implements it for fine-tuning ViTs.

timm's rand-m9-mstd0.5-inc1: two of fifteen operations, drawn with replacement, each applied with
probability 1/2 at a magnitude of N(9, 0.5), clipped to 0 and 10; "increasing" means that more
magnitude is always more distortion. Images are planes, (C, H, W) float32 in [0, 1], and are not
rounded to levels between operations; geometric operations interpolate linearly.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment import filters, geometric, levels, photometric

Array = jax.Array

LAYERS = 2
PROBABILITY = 0.5
DEVIATION = 0.5  # standard deviation of the magnitude
TOP = 10.0  # largest magnitude
OPERATIONS = (
    "autocontrast",
    "equalize",
    "invert",
    "posterize",
    "solarize",
    "solarize_add",
    "color",
    "contrast",
    "brightness",
    "sharpness",
    "rotate",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
PLACES = 5  # the last 5 operations move pixels and share one warp


def rand_augment(key: Array, image: Array, magnitude: float, fill: np.ndarray) -> Array:
    """Apply random operations to `image` (C, H, W). Pixels beyond its border are `fill`, a number
    or one per channel.
    """
    for layer in range(LAYERS):
        apply_key, operation_key, magnitude_key, sign_key = jax.random.split(
            jax.random.fold_in(key, layer), 4
        )
        level = jnp.clip(magnitude + DEVIATION * jax.random.normal(magnitude_key), 0.0, TOP) / TOP
        sign = jnp.where(jax.random.bernoulli(sign_key), -1.0, 1.0)
        operation = jax.random.randint(operation_key, (), 0, len(OPERATIONS))
        on = jax.random.uniform(apply_key) < PROBABILITY  # operation -1 is the identity
        image = operate(image, jnp.where(on, operation, -1), level, sign, fill)
    return image


def operate(
    image: Array, operation: Array | int, level: Array, sign: Array, fill: np.ndarray
) -> Array:
    """Apply operation number `operation` of `OPERATIONS`, -1 for none, at `level` in [0, 1].

    `sign`, 1 or -1, is the direction of the operations that have one.
    """
    factor = jnp.maximum(1.0 + sign * 0.9 * level, 0.1)
    added = jnp.minimum(jnp.floor(level * 110.0), 128.0) / 255.0
    place = jnp.asarray(operation) - (len(OPERATIONS) - PLACES)
    adjust = photometric.adjust
    branches = [
        lambda: image,
        lambda: levels.autocontrast(image),
        lambda: levels.equalize(image),
        lambda: 1.0 - image,
        lambda: levels.posterize(image, 4.0 - jnp.floor(level * 4.0)),
        # Half a level below the threshold 256 - 256 * level, so that rounding does not matter.
        lambda: photometric.solarize(image, (255.5 - jnp.floor(level * 256.0)) / 255.0),
        lambda: jnp.where(image < 127.5 / 255.0, jnp.minimum(image + added, 1.0), image),
        lambda: adjust(image, photometric.saturation(image, factor)) if len(image) == 3 else image,
        lambda: adjust(image, photometric.contrast(image, factor)),
        lambda: adjust(image, photometric.brightness(image, factor)),
        lambda: filters.sharpness(image, factor),
        lambda: _moved(image, place, sign * level, fill),
    ]
    return jax.lax.switch(jnp.minimum(jnp.asarray(operation) + 1, len(branches) - 1), branches)


def _moved(image: Array, place: Array, level: Array, fill: np.ndarray) -> Array:
    """Rotate by up to 30 degrees, shear by up to 0.3 along x or y from the upper left corner, or
    shift by up to 0.45 of a side.
    """
    height, width = image.shape[1:]
    turned = geometric.affine_matrix(
        math.radians(30.0) * level, jnp.zeros(2), jnp.zeros(()), jnp.zeros(2)
    )
    lean, far = 0.3 * level, 0.45 * level
    zero, unit = jnp.zeros(()), jnp.ones(())

    def matrix(*rows: Sequence[Array]) -> Array:
        return jnp.stack([jnp.stack(row) for row in rows])

    matrices = jnp.stack(
        [
            turned,
            matrix((unit, zero, zero), (lean, unit, lean * height / 2)),
            matrix((unit, lean, lean * width / 2), (zero, unit, zero)),
            matrix((unit, zero, zero), (zero, unit, far * width)),
            matrix((unit, zero, far * height), (zero, unit, zero)),
        ]
    )
    around = jnp.asarray(fill, image.dtype)
    pixels = jnp.moveaxis(image, 0, -1) - around
    moved = geometric.warp(pixels, matrices[jnp.clip(place, 0, PLACES - 1)]) + around
    return jnp.moveaxis(moved, -1, 0)
