"""Conversion of pixels of any type to 256 levels: which range of values becomes 0 to 255.

A 12-bit detector writes 16-bit files, a scanner signed ones: the type of a pixel does not determine
its values. So the range is measured once over a sample of a data set, or set by the user.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ssl_jax.core.errors import UserError

Range = tuple[float, ...]  # low and high, or low and high for each band; () if unknown
SHARES = (0.001, 0.999)  # quantiles of the pixels; values below and above count as outliers
# Usual ranges of files. One is used if the values span at least half of it.
_USUAL = ((0, 1), (-1, 1), (0, 255), (0, 1023), (0, 4095), (0, 16383), (0, 65535))
_PIXELS = 1 << 16  # largest number of pixels per image that a measurement uses
_CHUNK = 1 << 18  # numbers converted at once


def check(value_range: Range, bands: int = 0) -> None:
    """Raise `UserError` unless `value_range` is a range for images of `bands` bands (0: any)."""
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
    """Convert (..., C) of any number type to uint8: `value_range` becomes 0 to 255, linearly.

    Values beyond the range are clipped; NaN becomes 0; uint8 stays as it is.

    Args:
      value_range: by default the range of these pixels alone, see `measure`.
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
    """Measure the range of images (..., C) with the same number of bands: over all values, or per
    band if they have neither one nor three bands.

    The result is a usual range of files if the values lie in it and span at least half of it,
    otherwise the quantiles `SHARES` of the values.
    """
    rows = [thinned(image) for image in images]
    bands = images[0].shape[-1]
    if bands in (1, 3) or any(row.shape[-1] != bands for row in rows):
        return _measure(np.concatenate([row.reshape(-1) for row in rows]))
    values = np.concatenate(rows)
    ranges = [_measure(values[:, band]) for band in range(bands)]
    return ranges[0] if len(set(ranges)) == 1 else tuple(end for pair in ranges for end in pair)


def thinned(image: np.ndarray) -> np.ndarray:
    """Return every nth pixel of an image (..., C), few enough to be measured: (N, C), a copy."""
    rows = image.reshape(-1, image.shape[-1])
    return rows[:: -(-len(rows) // _PIXELS) or 1].copy()


def span(images: Sequence[np.ndarray]) -> int:
    """Count the levels, of 256, between the darkest and the brightest pixels of uint8 images, each
    in its widest band. The darkest and the brightest tenth of the images do not count.
    """
    ends = []
    for image in images:
        low, high = np.quantile(image.reshape(-1, image.shape[-1]), SHARES, axis=0)
        widest = np.argmax(high - low)
        ends.append((low[widest], high[widest]))
    lows, highs = np.transpose(ends)
    return round(float(np.quantile(highs, 0.9) - np.quantile(lows, 0.1))) + 1


def _measure(values: np.ndarray) -> Range:
    """Measure (low, high) of values (N,)."""
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
