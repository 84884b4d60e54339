"""A look at a sample of a data set before a run: which values its pixels take, how many bands."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data import levels
from ssl_jax.data.decode import DecodeError, native
from ssl_jax.data.levels import Range, to_uint8
from ssl_jax.data.sources.base import Source

SAMPLE = 32  # images
FEW = 64  # levels of 256: images that use fewer are nearly of one grey


@dataclass(frozen=True)
class Survey:
    """What a sample of the images shows.

    Attributes:
      value_range: what becomes 0 to 255, of pixels that are not 8-bit; () where all are.
      bands: of all images, where they have neither one nor three and agree in it; else 3.
      lines: what people should know, a line each.
    """

    value_range: Range = ()
    bands: int = 3
    lines: tuple[str, ...] = ()


def survey(source: Source, channels: int = 0, value_range: Range = ()) -> Survey:
    """Look at `SAMPLE` images of `source`, the same ones each time.

    Args:
      channels: that the run reads; 0 for as many as there are.
      value_range: the user's own.

    Raises:
      UserError: a `value_range` that is none, or that no image has a use for.
    """
    levels.check(value_range)
    images = _sample(source, channels)
    wide = [image for image in images if image.dtype != np.uint8]
    bands = {image.shape[-1] for image in images}
    many = bands.pop() if len(bands) == 1 and not bands <= {1, 3} else 3
    if value_range and images and not wide:
        raise UserError(
            f"data.range: {len(images)} images of {source.name} were looked at, and all are 8-bit "
            "already, which are read as they are; leave it out"
        )
    measured = value_range or (_measure(wide, channels or many) if wide else ())
    if measured:
        levels.check(measured, channels or many)
    lines = list(_lines(images, wide, measured, value_range))
    if many != 3 and channels in (0, many):
        lines.append(f"bands     {many} of each image, all of them read")
    return Survey(measured, many, tuple(lines))


def read_alike(source: Source, value_range: Range) -> Source:
    """`source`, with `value_range` for its pixels that are not 8-bit; by default its own."""
    source.read_in(value_range or survey(source).value_range)
    return source


def _sample(source: Source, channels: int) -> list[np.ndarray]:
    """Images (H, W, bands) in their own numbers; those that cannot be read are left out."""
    rows = np.random.default_rng(0).permutation(len(source))[:SAMPLE]
    images = []
    for row in np.sort(rows):
        try:
            data = source.read(int(row))
            if isinstance(data, np.ndarray):
                images.append(data)
            elif data[:2] != b"\xff\xd8":  # JPEG is 8-bit
                images.append(native(data, channels))
            else:
                images.append(native(data, channels, lambda *_: 8))
        except (DecodeError, OSError):
            continue
    return images


def _measure(wide: Sequence[np.ndarray], channels: int) -> Range:
    """Of the images that have the usual number of bands, and of those of them that are read."""
    (usual, _), *_ = Counter(image.shape[-1] for image in wide).most_common()
    used = channels if channels not in (1, 3) else 3 if usual >= 3 else 1
    return levels.measure([i[..., :used] for i in wide if i.shape[-1] == usual])


def _lines(
    images: Sequence[np.ndarray], wide: Sequence[np.ndarray], measured: Range, named: Range
) -> list[str]:
    lines = []
    if measured:
        types = "/".join(sorted({str(image.dtype) for image in wide}))
        pairs = [f"{a:g}..{b:g}" for a, b in zip(measured[::2], measured[1::2], strict=True)]
        how = "as data.range says" if named else "measured; --config.data.range=LOW,HIGH sets it"
        lines.append(f"range     {types} pixels: {', '.join(pairs)} become 0..255 ({how})")
    spans = [levels.span(to_uint8(image, measured)) for image in images]
    if spans and np.median(spans) < FEW:
        advice = "--config.data.range=LOW,HIGH" if wide else "stretch them to 0..255"
        lines.append(
            f"warning: the images use about {int(np.median(spans))} of 256 grey levels; {advice}"
        )
    return lines
