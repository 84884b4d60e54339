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

from ssl_jax.core import rng

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
    value, spread = value_and_spread(image)
    limit = value / jnp.where(spread > 0, spread, 1.0)  # the factor that makes S one
    scale = jnp.where(spread > 0, jnp.minimum(factor, limit), 1.0)
    return Line(scale, (1.0 - scale) * value)


def hue(image: Array, turn: Array) -> Array:
    """Shift H of HSV by `turn`, a share of the full circle."""
    return jnp.stack(turned_planes(image, turn)) if image.shape[0] == 3 else image


def turned_planes(image: Planes, turn: Array) -> list[Array]:
    """Compute `hue` of three planes, not stacked."""
    value, spread = value_and_spread(image)
    return from_hue(hue_sixths(image, spread), turn, value, spread)


def hue_sixths(image: Planes, spread: Array) -> Array:
    """Return the hue (H, W) in sixths of the circle; 0 for grey."""
    red, green, blue = image
    per_spread = 1.0 / jnp.where(spread > 0, spread, 1.0)
    # Not `value == red`: XLA may compute the two separately and round them differently.
    return jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) * per_spread,
        jnp.where(green >= blue, 2.0 + (blue - red) * per_spread, 4.0 + (red - green) * per_spread),
    )


def from_hue(sixths: Array, turn: Array, value: Array, spread: Array) -> list[Array]:
    """Return the planes of the colours with hues `sixths` shifted by `turn`."""

    def channel(place: float) -> Array:  # V less a trapezoid of the hue's distance from the channel
        k = sixths / 6.0 + turn + place / 6.0
        k = 6.0 * (k - jnp.floor(k))  # jnp.mod calls fmod pixel by pixel on a CPU: 4 times the time
        return value - spread * jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0)

    return [channel(5.0), channel(3.0), channel(1.0)]


def hsv_noise(image: Array, turn: Array, power: Array, factor: Array, offset: Array) -> Array:
    """Shift the hue by `turn` and replace S and V of HSV by factor * x^power + offset, clipped.

    The colour noise of Exemplar-CNN (1406.6909) as S4L's code has it (google-research/s4l,
    preprocess.py, get_hsvnoise_preprocess). Without three channels, every value is a V.

    Args:
      power, factor, offset: (2,), for S and for V.
    """

    def change(x: Array, i: int) -> Array:
        return jnp.clip(factor[i] * x ** power[i] + offset[i], 0.0, 1.0)

    if image.shape[0] != 3:
        return change(image, 1)
    value, spread = value_and_spread(image)
    sixths = hue_sixths(image, spread)
    saturation = jnp.where(value > 0, spread / jnp.where(value > 0, value, 1.0), 0.0)
    value = change(value, 1)
    return jnp.stack(from_hue(sixths, turn, value, change(saturation, 0) * value))


def random_hsv_noise(
    key: Array,
    image: Array,
    hue: float = 0.1,
    power: tuple[float, float] = (0.25, 4.0),
    factor: tuple[float, float] = (2**-0.5, 2**0.5),
    offset: float = 0.1,
) -> Array:
    """Apply `hsv_noise` with random numbers, independent for S and V.

    Args:
      hue, offset: largest absolute values, uniform.
      power, factor: ranges, log-uniform.
    """
    keys = jax.random.split(key, 4)
    return hsv_noise(
        image,
        rng.symmetric(keys[0], hue),
        rng.log_uniform(keys[1], power, (2,)),
        rng.log_uniform(keys[2], factor, (2,)),
        rng.symmetric(keys[3], offset, (2,)),
    )


def principal_contrast(image: Array, factors: Array) -> Array:
    """Multiply the deviations from the mean colour along each principal axis of the image's own
    colours by one of `factors` (C,), that of the largest variance first (contrast 1 of 1406.6909).
    """
    mean = image.mean((1, 2), keepdims=True)
    centred = (image - mean).reshape(image.shape[0], -1)
    covariance = jnp.matmul(centred, centred.T, precision="highest") / centred.shape[1]
    axes = jnp.linalg.eigh(covariance)[1][:, ::-1]
    change = jnp.matmul(axes * factors, axes.T, precision="highest")
    return mean + jnp.matmul(change, centred, precision="highest").reshape(image.shape)


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


def value_and_spread(image: Planes) -> tuple[Array, Array]:
    """Return V, the maximum over the channels, and maximum - minimum; each (H, W)."""
    red, green, blue = image
    value = jnp.maximum(jnp.maximum(red, green), blue)
    return value, value - jnp.minimum(jnp.minimum(red, green), blue)
