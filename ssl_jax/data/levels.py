"""Pixels of any type as 256 levels: which range of values becomes 0 to 255.

A 12-bit detector writes 16-bit files, a scanner signed ones: the type of a pixel does not say which
values it takes. So the range is measured over a sample of a set, once, or named by the user.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ssl_jax.core.errors import UserError

Range = tuple[float, ...]  # low and high, or a low and a high for each band; () is not known
SHARES = (0.001, 0.999)  # of the pixels; those below and above are taken for outliers
# Ranges that files are usually written in. One is taken where the values reach over half of it.
_USUAL = ((0, 1), (-1, 1), (0, 255), (0, 1023), (0, 4095), (0, 16383), (0, 65535))
_PIXELS = 1 << 16  # of an image, at most, that a measurement looks at
_CHUNK = 1 << 18  # numbers that are converted at once


def check(value_range: Range, bands: int = 0) -> None:
    """Raises `UserError` unless `value_range` is a range for images of `bands` (0: any)."""
    pairs = list(zip(value_range[::2], value_range[1::2], strict=False))
    whole = len(value_range) % 2 == 0 and all(low < high for low, high in pairs)
    if (
        not whole
        or not np.isfinite(value_range).all()
        or (bands and len(pairs) not in (0, 1, bands))
    ):
        bands_text = f"each of {bands} bands" if bands else "each band"
        raise UserError(
            f"data.range: expected LOW,HIGH with LOW < HIGH, or such a pair for {bands_text}; "
            f"got {','.join(f'{value:g}' for value in value_range)}"
        )


def to_uint8(pixels: np.ndarray, value_range: Range = ()) -> np.ndarray:
    """(..., C) of any number type as uint8: `value_range` evenly over 0 to 255.

    Values beyond the range are clipped; what is not a number becomes 0; uint8 stays as it is.

    Args:
      value_range: by default that of these pixels alone, see `measure`.
    """
    if pixels.dtype == np.uint8:
        return pixels
    bands = pixels.shape[-1]
    value_range = value_range or measure([pixels])
    if len(value_range) not in (2, 2 * bands):
        value_range = (min(value_range[::2]), max(value_range[1::2]))
    low, high = np.array(value_range, np.float64).reshape(-1, 2).T
    precise: Any = (
        np.float32 if pixels.dtype.itemsize <= 2 or pixels.dtype == np.float32 else np.float64
    )
    low, scale = low.astype(precise), (255 / (high - low)).astype(precise)
    out = np.empty(pixels.shape, np.uint8)
    step = max(1, _CHUNK // max(1, pixels[:1].size))
    with np.errstate(invalid="ignore", over="ignore"):
        for first in range(0, len(pixels), step):
            some = (pixels[first : first + step].astype(precise) - low) * scale + 0.5
            np.clip(np.nan_to_num(some, copy=False), 0, 255, out=some)
            out[first : first + step] = some
    return out


def measure(images: Sequence[np.ndarray]) -> Range:
    """The range of images (..., C) of one number of bands: of all values, or, where they have
    neither one nor three bands, of each band.

    A usual range of files where the values fit into one and reach over half of it, else `SHARES` of
    the values.
    """
    rows = [image.reshape(-1, image.shape[-1]) for image in images]
    rows = [row[:: -(-len(row) // _PIXELS) or 1] for row in rows]
    bands = images[0].shape[-1]
    if bands in (1, 3) or any(row.shape[-1] != bands for row in rows):
        return _measure(np.concatenate([row.reshape(-1) for row in rows]))
    values = np.concatenate(rows)
    each = [_measure(values[:, band]) for band in range(bands)]
    return each[0] if len(set(each)) == 1 else tuple(end for pair in each for end in pair)


def span(image: np.ndarray) -> int:
    """How many of the 256 levels lie between the darkest and the brightest pixels of a uint8 image,
    in its widest band.
    """
    rows = image.reshape(-1, image.shape[-1])
    low, high = np.quantile(rows, SHARES, axis=0)
    return round(float(np.max(high - low))) + 1


def _measure(values: np.ndarray) -> Range:
    """(low, high) of values (N,)."""
    whole = np.issubdtype(values.dtype, np.integer)
    values = values.astype(np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    low, high = (float(value) for value in np.quantile(values, SHARES))
    least, most = float(values.min()), float(values.max())
    for bottom, top in _USUAL[2:] if whole else _USUAL:
        if bottom <= least and most <= top and high - low >= (top - bottom) / 2:
            return float(bottom), float(top)
    if low < high:
        return low, high
    return (least, most) if least < most else (min(least, 0.0), max(most, 1.0))
