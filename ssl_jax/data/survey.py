"""Survey of a sample of a data set before a run: the range of its pixels and its bands."""

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
FEW = 64  # levels of 256: a data set that uses fewer has lost most of its contrast


@dataclass(frozen=True)
class Survey:
    """Results of a survey.

    Attributes:
      value_range: values that become 0 to 255, for pixels that are not 8-bit; () if all are.
      bands: number of bands if all images agree on one other than 1 and 3; else 3.
      lines: information for the user, one line each.
    """

    value_range: Range = ()
    bands: int = 3
    lines: tuple[str, ...] = ()


def survey(source: Source, channels: int = 0, value_range: Range = ()) -> Survey:
    """Survey a fixed sample of `SAMPLE` images of `source`.

    Args:
      channels: channels that the run reads; 0 for those of the data.
      value_range: the range set by the user.

    Raises:
      UserError: an invalid `value_range`, or one that no image needs.
    """
    levels.check(value_range)
    images = _sample(source, channels)
    wide = [image for image in images if image.dtype != np.uint8]
    bands = {image.shape[-1] for image in images}
    many = bands.pop() if len(bands) == 1 and not bands <= {1, 3} else 3
    if value_range and images and not wide:
        raise UserError(
            f"data.range: all of {len(images)} sampled images of {source.name} are 8-bit, which "
            "need no range; leave it out"
        )
    measured = value_range or (_measure(wide, channels or many) if wide else ())
    if measured:
        levels.check(measured, channels or many)
    lines = list(_lines(images, wide, measured, value_range))
    if many != 3 and channels in (0, many):
        lines.append(f"bands     {many} per image, all of them read")
    return Survey(measured, many, tuple(lines))


def read_alike(source: Source, value_range: Range) -> Source:
    """Set the range of wide pixels of `source`, by default the measured one; return `source`."""
    source.read_in(value_range or survey(source).value_range)
    return source


def _sample(source: Source, channels: int) -> list[np.ndarray]:
    """Read pixels (N, bands) of sample images in their own number type; skip images that cannot be
    read. One image at a time is in memory: 32 satellite tiles would take tens of GB.
    """
    count = len(source)  # a permutation of 300 million would take half a minute
    rows = np.random.default_rng(0).choice(count, min(SAMPLE, count), replace=False)
    images = []
    for row in np.sort(rows):
        try:
            data = source.read(int(row))
            if isinstance(data, bytes):
                jpeg = data[:2] == b"\xff\xd8"  # 8-bit
                data = native(data, channels, lambda *_: 8) if jpeg else native(data, channels)
            images.append(levels.thinned(data))
        except (DecodeError, OSError):
            continue
    return images


def _measure(wide: Sequence[np.ndarray], channels: int) -> Range:
    """Measure the range over images with the most frequent number of bands, and the bands read."""
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
        how = "set by data.range" if named else "measured; --config.data.range=LOW,HIGH sets it"
        lines.append(f"range     {types} pixels: {', '.join(pairs)} become 0..255 ({how})")
    # Of all images together: one range stretches them all, which helps no image of little contrast.
    used = levels.span([to_uint8(image, measured) for image in images]) if images else FEW
    if used < FEW:
        advice = "--config.data.range=LOW,HIGH" if wide else "stretch them to 0..255"
        lines.append(f"warning: the images use about {used} of 256 grey levels; {advice}")
    return lines
