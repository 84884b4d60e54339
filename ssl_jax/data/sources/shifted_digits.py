"""`shifted_digits:KIND-SEVERITY`: the digits, corrupted; small stand-ins for ImageNet-C's sets.

The kinds are additive noise, blur, low contrast, brightness and coarse pixels, at severities 1 to
3. The noise of an image is a function of its number.
"""

from collections.abc import Callable, Mapping

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.draws import uniform
from ssl_jax.data.sources import digits
from ssl_jax.data.sources.base import ArraySource

SEVERITIES = (1, 2, 3)
SEED = 0


def noise(images: np.ndarray, severity: int) -> np.ndarray:
    """Add normal noise of deviation 0.1, 0.2 or 0.3."""
    first, second = np.moveaxis(uniform(SEED, np.arange(len(images)), shape=(2, 64)), 1, 0)
    normal = np.sqrt(-2 * np.log(1 - first)) * np.cos(2 * np.pi * second)  # Box and Muller
    return images + 0.1 * severity * normal.reshape(images.shape)


def blur(images: np.ndarray, severity: int) -> np.ndarray:
    """Average with the neighbours, weights 1 2 1 in each direction, one to three times."""
    for _ in range(severity):
        for axis in (1, 2):
            width = [(0, 0)] * 3
            width[axis] = (1, 1)
            padded = np.pad(images, width, mode="edge")
            before, after = (np.take(padded, np.arange(8) + i, axis) for i in (0, 2))
            images = (before + 2 * images + after) / 4
    return images


def contrast(images: np.ndarray, severity: int) -> np.ndarray:
    """Move the pixels towards the image's mean: 0.5, 0.25 or 0.125 of the difference stays."""
    mean = images.mean((1, 2), keepdims=True)
    return mean + 0.5**severity * (images - mean)


def brightness(images: np.ndarray, severity: int) -> np.ndarray:
    """Add 0.2, 0.4 or 0.6; what exceeds white is lost."""
    return images + 0.2 * severity


def pixelate(images: np.ndarray, severity: int) -> np.ndarray:
    """Replace squares of 2 x 2 pixels by their mean; or blocks of 4 x 2; or squares of 4 x 4."""
    height, width = ((2, 2), (4, 2), (4, 4))[severity - 1]
    cells = images.reshape(-1, 8 // height, height, 8 // width, width).mean((2, 4))
    return cells.repeat(height, 1).repeat(width, 2)


KINDS: Mapping[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "noise": noise,
    "blur": blur,
    "contrast": contrast,
    "brightness": brightness,
    "pixelate": pixelate,
}


def load(path: str, split: str) -> ArraySource:
    """Load the images of `digits`, corrupted."""
    kind, _, severity = path.partition("-")
    if kind not in KINDS or severity not in map(str, SEVERITIES):
        raise UserError(
            f"data 'shifted_digits:{path}': expected KIND-SEVERITY, KIND one of "
            f"{', '.join(KINDS)} and SEVERITY from 1 to {SEVERITIES[-1]}"
        )
    source = digits.load("", split)
    assert source.arrays is not None
    shifted = KINDS[kind](source.arrays[..., 0] / 255, int(severity))
    arrays = np.round(255 * np.clip(shifted, 0, 1)).astype(np.uint8)[..., None]
    return ArraySource(f"shifted_digits:{path}", arrays, source.labels, source.class_names)


def held_out(path: str) -> ArraySource:
    """Load the 360 evaluation images."""
    return load(path, "eval")


def absolute(path: str) -> str:
    """Return `path` unchanged: it names no file."""
    return path
