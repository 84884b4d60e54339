"""Changes of colour. Images are planes, (C, H, W) float32 in [0, 1].

Planes, not (H, W, C): with three channels innermost the vector units lie idle, and a colour jitter
of 32 px images takes four times as long on a CPU. `recipes.apply` transposes. `jitter` combines
these functions.

Saturation, hue and grey leave images without three channels unchanged, by static shape; brightness,
contrast and solarization work on any number of channels.

Sources: torchvision's `ColorJitter`, SimCLR's `data_util.py`, BYOL's `augmentations.py`; each
function names its source where they differ.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Planes = Array | Sequence[Array]  # (C, H, W), or C arrays (H, W)

LUMA = (0.2989, 0.587, 0.114)  # ITU 601, rounded as in all three sources


class Line(NamedTuple):
    """An adjustment scale * x + offset; each is a number, one per channel or one per pixel."""

    scale: Array | float
    offset: Array | float


def adjust(image: Array, line: Line) -> Array:
    """Compute scale * image + offset, clipped to [0, 1]."""
    return jnp.clip(line.scale * image + line.offset, 0.0, 1.0)


def brightness(image: Array, factor: Array) -> Line:
    """Multiply by `factor` (torchvision, SimCLR)."""
    return Line(factor, 0.0)


def added_brightness(image: Array, delta: Array) -> Line:
    """Add `delta` (BYOL, and SimCLR's first code)."""
    return Line(1.0, delta)


def contrast(image: Array, factor: Array) -> Line:
    """Blend with the mean of the grey image, a scalar (torchvision)."""
    return Line(factor, (1.0 - factor) * luminance(image).mean())


def channel_contrast(image: Array, factor: Array) -> Line:
    """Blend with the mean of each channel (SimCLR, BYOL)."""
    return Line(factor, (1.0 - factor) * image.mean((1, 2), keepdims=True))


def saturation(image: Planes, factor: Array) -> Line:
    """Blend with the grey image (torchvision)."""
    return Line(factor, (1.0 - factor) * luminance(image))


def hsv_saturation(image: Planes, factor: Array) -> Line:
    """Multiply S of HSV by `factor`, at most to 1 (SimCLR, BYOL).

    S scales the distances to the largest channel V, so this is a blend with V.
    """
    value, spread = _value_and_spread(image)
    limit = value / jnp.where(spread > 0, spread, 1.0)  # the factor that makes S one
    scale = jnp.where(spread > 0, jnp.minimum(factor, limit), 1.0)
    return Line(scale, (1.0 - scale) * value)


def hue(image: Array, turn: Array) -> Array:
    """Shift H of HSV by `turn`, a share of the full circle."""
    return jnp.stack(turned_planes(image, turn)) if image.shape[0] == 3 else image


def turned_planes(image: Planes, turn: Array) -> list[Array]:
    """Compute `hue` of three planes, not stacked."""
    red, green, blue = image
    value, spread = _value_and_spread(image)
    per_spread = 1.0 / jnp.where(spread > 0, spread, 1.0)
    # Not `value == red`: XLA may compute the two separately and round them differently.
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
    """Replace all three channels by the luminance."""
    if image.shape[0] != 3:
        return image
    return jnp.broadcast_to(luminance(image), image.shape)


def luminance(image: Planes) -> Array:
    """Return (H, W): the ITU 601 luma of three channels, the mean of any other number."""
    if len(image) != 3:
        return sum(image[1:], start=image[0]) / len(image)
    return LUMA[0] * image[0] + LUMA[1] * image[1] + LUMA[2] * image[2]


def solarize(image: Array, threshold: Array | float = 0.5) -> Array:
    """Invert values of at least `threshold`: 1 - x."""
    return jnp.where(image < threshold, image, 1.0 - image)


def _value_and_spread(image: Planes) -> tuple[Array, Array]:
    """Return V, the maximum over the channels, and maximum - minimum; each (H, W)."""
    red, green, blue = image
    value = jnp.maximum(jnp.maximum(red, green), blue)
    return value, value - jnp.minimum(jnp.minimum(red, green), blue)
