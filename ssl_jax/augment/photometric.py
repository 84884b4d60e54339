"""Changes of colour and sharpness. Images are planes, (C, H, W) float32 in [0, 1].

Planes, not (H, W, C): with three channels innermost the vector units lie idle, and a colour jitter
of 32 px images takes four times as long on a CPU. `recipes.apply` turns them in and out.

What concerns colour (saturation, hue, grey) leaves images alone that do not have three channels, by
static shape; brightness, contrast, blur and solarization work on any number.

Sources: torchvision's `ColorJitter`, SimCLR's `data_util.py`, BYOL's `augmentations.py`; where they
differ is said at each function.
"""

import itertools
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
JitterKind = Literal["torchvision", "simclr", "byol"]

LUMA = (0.2989, 0.587, 0.114)  # ITU 601, rounded as all three sources have it
JITTER_DRAWS = 6


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


def saturation(image: Array, factor: Array) -> Line:
    """Blend with the grey image (torchvision)."""
    return Line(factor, (1.0 - factor) * luminance(image))


def hsv_saturation(image: Array, factor: Array) -> Line:
    """Multiply S of HSV by `factor`, at most to 1 (SimCLR, BYOL).

    S scales the distances to the largest channel V, so this too is a blend, with V.
    """
    value, spread = _value_and_spread(image)
    limit = value / jnp.where(spread > 0, spread, 1.0)  # the factor that makes S one
    scale = jnp.where(spread > 0, jnp.minimum(factor, limit), 1.0)
    return Line(scale, (1.0 - scale) * value)


def hue(image: Array, turn: Array) -> Array:
    """Shift H of HSV by `turn`, a share of the full circle."""
    if image.shape[0] != 3:
        return image
    red, green, blue = image
    value, spread = _value_and_spread(image)
    per_spread = 1.0 / jnp.where(spread > 0, spread, 1.0)
    sixth = jnp.where(
        value == red,
        (green - blue) * per_spread,
        jnp.where(
            value == green, 2.0 + (blue - red) * per_spread, 4.0 + (red - green) * per_spread
        ),
    )

    def channel(place: float) -> Array:  # V less a trapezoid of the hue's distance from the channel
        k = sixth / 6.0 + turn + place / 6.0
        k = 6.0 * (k - jnp.floor(k))  # jnp.mod calls fmod pixel by pixel on a CPU: 4 times the time
        return value - spread * jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0)

    return jnp.stack([channel(5.0), channel(3.0), channel(1.0)])


def color_jitter(
    image: Array,
    draws: Array,
    strength: tuple[float, float, float, float],
    kind: JitterKind = "torchvision",
) -> Array:
    """Brightness, contrast, saturation and hue by random amounts, in random order, each clipped.

    Args:
      draws: (JITTER_DRAWS,) uniform in [0, 1).
      strength: x of each; factors are uniform in [max(0, 1 - x), 1 + x], the hue's turn in [-x, x].
      kind: whose brightness, contrast and saturation. BYOL's brightness adds a number in [-x, x].
    """
    x = np.asarray(strength, np.float32)
    low = np.maximum(1.0 - x, 0.0)
    signed = x * (2.0 * draws[:4] - 1.0)
    factor = low + (1.0 + x - low) * draws[:4]
    native = kind == "torchvision"
    lines: list[Callable[[Array], Line]] = [
        (lambda im: added_brightness(im, signed[0]))
        if kind == "byol"
        else (lambda im: brightness(im, factor[0])),
        lambda im: (contrast if native else channel_contrast)(im, factor[1]),
        lambda im: (saturation if native else hsv_saturation)(im, factor[2]),
    ]
    coloured = image.shape[0] == 3
    lines = [line for i, line in enumerate(lines) if strength[i] and (coloured or i < 2)]
    orders = np.array(list(itertools.permutations(range(len(lines)))), np.int32)
    order = jnp.asarray(orders)[_choice(draws[4], len(orders))]

    # Under vmap every branch is computed. So all three lines share one pass, and the costly hue
    # stands in the code once: `ahead` of the lines run before it, which makes any order of four.
    def run(im: Array, here: Callable[[int], Array]) -> Array:
        for slot in range(len(lines)):
            im = jnp.where(here(slot), adjust(im, _select(order[slot], im, lines)), im)
        return im

    if not (strength[3] and coloured):
        return run(image, lambda slot: jnp.array(True))
    ahead = _choice(draws[5], len(lines) + 1)
    image = run(image, lambda slot: slot < ahead)
    image = hue(image, signed[3])
    return run(image, lambda slot: slot >= ahead)


def grayscale(image: Array) -> Array:
    """Luminance in all three channels."""
    if image.shape[0] != 3:
        return image
    return jnp.broadcast_to(luminance(image), image.shape)


def luminance(image: Array) -> Array:
    """(H, W): ITU 601 luma of three channels, the mean of any other number."""
    if image.shape[0] != 3:
        return image.mean(0)
    return LUMA[0] * image[0] + LUMA[1] * image[1] + LUMA[2] * image[2]


def solarize(image: Array, threshold: float = 0.5) -> Array:
    """Values from `threshold` on inverted, 1 - x."""
    return jnp.where(image < threshold, image, 1.0 - image)


def blur_radius(size: int) -> int:
    """Radius in pixels of SimCLR's and BYOL's blur of images with this side: 224 -> 11, 32 -> 1."""
    return (size // 10) // 2


def gaussian_blur(image: Array, sigma: Array, radius: int) -> Array:
    """Convolved with a Gaussian of `sigma` pixels, cut off at `radius`, normalised; zero padding.

    Two products with a banded matrix. Shifted sums are as fast alone, but XLA fuses what comes
    before into them and computes it once a tap; a product stops that, and is what a TPU does best.
    """
    if radius == 0:
        return image

    def taps(distance: np.ndarray) -> Array:
        return jnp.exp(-np.square(distance, dtype=np.float32) / (2.0 * sigma**2))

    total = taps(np.arange(-radius, radius + 1)).sum()

    def band(size: int) -> Array:
        distance = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
        return jnp.where(distance <= radius, taps(distance) / total, 0.0)

    def times(a: Array, b: Array) -> Array:
        return jnp.matmul(a, b, precision=jax.lax.Precision.HIGH)

    return times(times(band(image.shape[1]), image), band(image.shape[2]))


def _value_and_spread(image: Array) -> tuple[Array, Array]:
    """V = max over the channels, and max - min; (H, W)."""
    red, green, blue = image
    value = jnp.maximum(jnp.maximum(red, green), blue)
    return value, value - jnp.minimum(jnp.minimum(red, green), blue)


def _choice(draw: Array, n: int) -> Array:
    """0 to n - 1 from a uniform draw in [0, 1)."""
    return jnp.minimum((draw * n).astype(jnp.int32), n - 1)


def _select(which: Array, image: Array, lines: list[Callable[[Array], Line]]) -> Line:
    scale, offset = lines[0](image)
    for i, line in enumerate(lines[1:], start=1):
        other = line(image)
        scale = jnp.where(which == i, other.scale, scale)
        offset = jnp.where(which == i, other.offset, offset)
    return Line(scale, offset)
