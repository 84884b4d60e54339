"""Changes of colour and sharpness. Images are (H, W, C) float32 in [0, 1].

What concerns colour (saturation, hue, grey) leaves images alone that do not have three channels, by
static shape; brightness, contrast, blur and solarization work on any number.

Sources: torchvision's `ColorJitter`, SimCLR's `data_util.py` and BYOL's `augmentations.py`; where
they differ is named at each function.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
JitterKind = Literal["torchvision", "simclr", "byol"]

LUMA = np.array([0.2989, 0.587, 0.114], np.float32)  # ITU 601, as all three sources have it


def brightness(image: Array, factor: Array) -> Array:
    """Multiplied by `factor`, clipped."""
    return _clip(image * factor)


def add_brightness(image: Array, delta: Array) -> Array:
    """`delta` added, clipped: BYOL's and the first SimCLR code's brightness."""
    return _clip(image + delta)


def contrast(image: Array, factor: Array, per_channel: bool = False) -> Array:
    """Blended with its mean, clipped: the mean of the grey image (torchvision), or of each channel."""
    mean = image.mean((0, 1)) if per_channel else luminance(image).mean()
    return _clip(mean + factor * (image - mean))


def saturation(image: Array, factor: Array) -> Array:
    """Blended with its grey image, clipped (torchvision)."""
    if image.shape[-1] != 3:
        return image
    grey = luminance(image)[..., None]
    return _clip(grey + factor * (image - grey))


def hsv_saturation(image: Array, factor: Array) -> Array:
    """The S of HSV multiplied by `factor` and clipped to 1 (TensorFlow, BYOL).

    Done in RGB: S scales the distances to the largest channel, V = max.
    """
    if image.shape[-1] != 3:
        return image
    value = image.max(-1, keepdims=True)
    spread = value - image.min(-1, keepdims=True)
    limit = value / jnp.where(spread > 0, spread, 1.0)  # the factor at which S reaches 1
    scale = jnp.where(spread > 0, jnp.minimum(factor, limit), 1.0)
    return _clip(value + scale * (image - value))


def hue(image: Array, turn: Array) -> Array:
    """The H of HSV shifted by `turn`, a fraction of the full circle."""
    if image.shape[-1] != 3:
        return image
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    value = image.max(-1)
    spread = value - image.min(-1)
    scale = 1.0 / jnp.where(spread > 0, spread, 1.0)
    sixths = jnp.where(
        value == red,
        (green - blue) * scale,
        jnp.where(value == green, 2.0 + (blue - red) * scale, 4.0 + (red - green) * scale),
    )
    # A channel is V - spread * ramp, ramp a trapezoid of the hue's distance from the channel's own.
    offset = np.array([5.0, 3.0, 1.0], np.float32)
    k = jnp.mod(offset + (sixths + 6.0 * turn)[..., None], 6.0)
    ramp = jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0)
    return _clip(value[..., None] - spread[..., None] * ramp)


def color_jitter(
    image: Array,
    key: Array,
    strength: tuple[float, float, float, float],
    kind: JitterKind = "torchvision",
) -> Array:
    """Brightness, contrast, saturation and hue by random amounts in random order.

    Args:
      strength: x of each; the factors are uniform in [max(0, 1 - x), 1 + x], the hue's turn in
        [-x, x], BYOL's additive brightness in [-x, x].
      kind: "torchvision" (contrast by the grey mean, saturation by blending with grey), "simclr"
        (contrast by channel means, saturation in HSV), "byol" (as simclr, but additive brightness).
    """
    if not any(strength):
        return image
    key_order, key_amount = jax.random.split(key)
    order = jax.random.permutation(key_order, 4)
    u = jax.random.uniform(key_amount, (4,), minval=-1.0, maxval=1.0)
    x = jnp.asarray(strength, jnp.float32)
    low, high = jnp.maximum(1.0 - x, 0.0), 1.0 + x
    factor = low + (high - low) * (u + 1.0) / 2.0
    if kind == "byol":
        ops = [lambda im: add_brightness(im, x[0] * u[0])]
    else:
        ops = [lambda im: brightness(im, factor[0])]
    native = kind == "torchvision"
    ops += [
        lambda im: contrast(im, factor[1], per_channel=not native),
        lambda im: (saturation if native else hsv_saturation)(im, factor[2]),
    ]
    coloured = image.shape[-1] == 3
    wanted = [i for i in range(3) if strength[i] and (i < 2 or coloured)]
    turned = bool(strength[3]) and coloured

    # Under vmap every branch is computed, so the costly hue runs once: the other three stand in
    # their random order, each before the hue or after it.
    place = jnp.argsort(order)  # of each op in the order

    def others(im: Array, first: Array, last: Array) -> Array:
        for slot in range(4 if turned else 3):
            here = (order[slot] < 3) & (slot >= first) & (slot < last)
            out = im
            for i in wanted:
                out = jnp.where(here & (order[slot] == i), ops[i](im), out)
            im = out
        return im

    if not turned:
        order = order[order != 3] if False else order
    return others(image, place[3], 4) if turned else image


def grayscale(image: Array) -> Array:
    """Luminance in all three channels."""
    if image.shape[-1] != 3:
        return image
    return jnp.broadcast_to(luminance(image)[..., None], image.shape)


def luminance(image: Array) -> Array:
    """(H, W): ITU 601 luma of three channels, the mean of any other number."""
    return image @ LUMA if image.shape[-1] == 3 else image.mean(-1)


def _clip(image: Array) -> Array:
    return jnp.clip(image, 0.0, 1.0)
