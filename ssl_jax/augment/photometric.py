"""Changes of colour. Images are planes, (C, H, W) float32 in [0, 1].

Planes, not (H, W, C): with three channels innermost the vector units lie idle, and a colour jitter
of 32 px images takes four times as long on a CPU. `recipes.apply` turns them in and out. `jitter`
puts these together.

What concerns colour (saturation, hue, grey) leaves images alone that do not have three channels, by
static shape; brightness, contrast and solarization work on any number.

Sources: torchvision's `ColorJitter`, SimCLR's `data_util.py`, BYOL's `augmentations.py`; where they
differ is said at each function.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Planes = Array | Sequence[Array]  # (C, H, W), or C arrays (H, W)

LUMA = (0.2989, 0.587, 0.114)  # ITU 601, rounded as all three sources have it


class Line(NamedTuple):
    """An adjustment: scale * x + offset, each a number, one a channel or one a pixel."""

    scale: Array | float
    offset: Array | float


def adjust(image: Array, line: Line) -> Array:
    """scale * image + offset, clipped to [0, 1]."""
    return jnp.clip(line.scale * image + line.offset, 0.0, 1.0)


def brightness(image: Array, factor: Array) -> Line:
    """Multiply by `factor` (torchvision, SimCLR)."""
    return Line(factor, 0.0)


def added_brightness(image: Array, delta: Array) -> Line:
    """Add `delta` (BYOL, and SimCLR's first code)."""
    return Line(1.0, delta)


def contrast(image: Array, factor: Array) -> Line:
    """Blend with the mean of the grey image, one number (torchvision)."""
    return Line(factor, (1.0 - factor) * luminance(image).mean())


def channel_contrast(image: Array, factor: Array) -> Line:
    """Blend with the mean of each channel (SimCLR, BYOL)."""
    return Line(factor, (1.0 - factor) * image.mean((1, 2), keepdims=True))


def saturation(image: Planes, factor: Array) -> Line:
    """Blend with the grey image (torchvision)."""
    return Line(factor, (1.0 - factor) * luminance(image))


def hsv_saturation(image: Planes, factor: Array) -> Line:
    """Multiply S of HSV by `factor`, at most to 1 (SimCLR, BYOL).

    S scales the distances to the largest channel V, so this too is a blend, with V.
    """
    value, spread = _value_and_spread(image)
    limit = value / jnp.where(spread > 0, spread, 1.0)  # the factor that makes S one
    scale = jnp.where(spread > 0, jnp.minimum(factor, limit), 1.0)
    return Line(scale, (1.0 - scale) * value)


def hue(image: Array, turn: Array) -> Array:
    """Shift H of HSV by `turn`, a share of the full circle."""
    return jnp.stack(turned_planes(image, turn)) if image.shape[0] == 3 else image


def turned_planes(image: Planes, turn: Array) -> list[Array]:
    """`hue` of three planes, not stacked."""
    red, green, blue = image
    value, spread = _value_and_spread(image)
    per_spread = 1.0 / jnp.where(spread > 0, spread, 1.0)
    # Not `value == red`: XLA may compute the two apart, with other roundings, and then neither is.
    sixth = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) * per_spread,
        jnp.where(green >= blue, 2.0 + (blue - red) * per_spread, 4.0 + (red - green) * per_spread),
    )

    def channel(place: float) -> Array:  # V less a trapezoid of the hue's distance from the channel
        k = sixth / 6.0 + turn + place / 6.0
        k = 6.0 * (k - jnp.floor(k))  # jnp.mod calls fmod pixel by pixel on a CPU: 4 times the time
        return value - spread * jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0)

    return [channel(5.0), channel(3.0), channel(1.0)]


def grayscale(image: Array) -> Array:
    """Luminance in all three channels."""
    if image.shape[0] != 3:
        return image
    return jnp.broadcast_to(luminance(image), image.shape)


def luminance(image: Planes) -> Array:
    """(H, W): ITU 601 luma of three channels, the mean of any other number."""
    if len(image) != 3:
        return sum(image[1:], start=image[0]) / len(image)
    return LUMA[0] * image[0] + LUMA[1] * image[1] + LUMA[2] * image[2]


def solarize(image: Array, threshold: Array | float = 0.5) -> Array:
    """Values from `threshold` on inverted, 1 - x."""
    return jnp.where(image < threshold, image, 1.0 - image)


def _value_and_spread(image: Planes) -> tuple[Array, Array]:
    """V = max over the channels, and max - min; (H, W)."""
    red, green, blue = image
    value = jnp.maximum(jnp.maximum(red, green), blue)
    return value, value - jnp.minimum(jnp.minimum(red, green), blue)
