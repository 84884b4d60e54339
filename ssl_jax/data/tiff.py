"""TIFF files of any number of bands and pages, and of pixels wider than 8 bits.

Pillow reads 8-bit pictures of one and three bands. For other files it keeps the high byte, takes
the fourth band for transparency, or finds no image. But libtiff behind it decompresses the bytes of
any file that is presented as a grey picture with one column per byte of a row, as is done here.
"""

import io
import itertools
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, TiffImagePlugin

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_KNOWN = (1, 5, 8, 32773, 32946, 34925, 50000)  # none, LZW, Deflate, PackBits, LZMA, Zstandard
_PREDICTED = (5, 8, 32946, 34925, 50000)  # compressions with a predictor
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}  # SampleFormat
_MOST_PAGES = 1000
_SLAB = 1 << 23  # bytes decompressed at once
_NODATA = 42113  # GDAL's tag: a number, as text


class Page(NamedTuple):
    """One picture of a file.

    Attributes:
      tags: tag number -> value.
      dtype: type of a sample, in the file's byte order; None if Pillow must read the page.
      block: (height, width) of a compressed block: a tile, or a strip over the whole width.
      planar: true if each band is stored separately.
    """

    tags: Any
    height: int
    width: int
    bands: int
    dtype: np.dtype | None
    block: tuple[int, int]
    tiled: bool
    planar: bool

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of the decompressed data: whole tiles."""
        if not self.tiled:
            return self.height, self.width
        down, across = (-(-n // b) for n, b in zip(self.shape, self.block, strict=True))
        return down * self.block[0], across * self.block[1]

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def peak(self) -> int:
        """Peak memory in bytes of reading the page, without the file itself."""
        item = self.dtype.itemsize if self.dtype else 1
        height, width = self.padded
        row = width * item * (1 if self.planar else self.bands)
        unpacked = 4 * max(_SLAB, row * min(self.block[0], height))  # includes copies
        numbers = self.height * self.width * self.bands * item
        return unpacked + numbers * (3 if self.nodata is not None else 1)

    @property
    def nodata(self) -> float | None:
        """The number that marks pixels without a value, for pixels wider than 8 bits."""
        try:
            text = str(self.tags.get(_NODATA, "")).strip("\0 ")
            return float(text) if self.dtype and self.dtype.itemsize > 1 else None
        except ValueError:
            return None


def is_tiff(data: bytes) -> bool:
    return data[:4] in _MAGIC


def pages(data: bytes, most: int = _MOST_PAGES) -> list[Page]:
    """Return the first `most` pictures of a file, without reduced copies and masks.

    Raises:
      Exception: of nearly any type, for corrupt bytes.
    """
    whole = (tags for tags in _directories(data) if not int(tags.get(254, 0)) & 0b101)
    return [_page(tags) for tags in itertools.islice(whole, most)]


def read(data: bytes, page: Page) -> np.ndarray:
    """Read a page whose `dtype` is not None as (H, W, bands) in the native byte order.

    Pixels that GDAL marks as without a value become NaN if they are wider than 8 bits.

    Raises:
      Exception: of nearly any type, for corrupt bytes.
    """
    assert page.dtype is not None
    out = np.empty((page.height, page.width, page.bands), page.dtype.newbyteorder("="))
    starts, sizes = ((324, 325) if page.tiled else (273, 279))[:2]
    places = list(zip(_many(page.tags[starts]), _many(page.tags[sizes]), strict=True))
    if page.planar:
        count = len(places) // page.bands
        for band in range(page.bands):
            _unpack(
                data, page, places[band * count : (band + 1) * count], out[..., band : band + 1]
            )
    else:
        _unpack(data, page, places, out)
    if int(page.tags.get(262, 1)) == 0 and page.dtype.kind == "u":  # white is zero
        np.subtract(np.iinfo(out.dtype).max, out, out=out)
    if page.nodata is not None and (out == page.nodata).any():
        wide = np.float32 if page.dtype.itemsize <= 2 or page.dtype == np.float32 else np.float64
        return np.where(out == page.nodata, np.nan, out.astype(wide))
    return out


def _directories(data: bytes) -> Iterator[Any]:
    head = data[:16] if data[2:3] == b"+" or data[3:4] == b"+" else data[:8]
    directory, file = TiffImagePlugin.ImageFileDirectory_v2(head), io.BytesIO(data)
    visited: set[int] = set()
    while directory.next and directory.next not in visited and len(visited) < _MOST_PAGES:
        at = directory.next
        visited.add(at)
        directory = TiffImagePlugin.ImageFileDirectory_v2(head)
        file.seek(at)
        directory.load(file)
        yield directory


def _page(tags: Any) -> Page:
    height, width, bands = int(tags[257]), int(tags[256]), int(tags.get(277, 1))
    bits, kinds = set(_many(tags.get(258, 1))), set(_many(tags.get(339, 1)))
    kind, packing = _KINDS.get(min(kinds)), int(tags.get(259, 1))
    dtype = None
    if (
        len(bits) == len(kinds) == 1
        and kind
        and min(bits) in ((16, 32, 64) if kind == "f" else (8, 16, 32, 64))
        and packing in _KNOWN
        and int(tags.get(262, 1)) in (0, 1, 2, 34892)
        and min(height, width, bands) > 0
    ):
        order = ">" if tags.prefix == b"MM" else "<"
        dtype = np.dtype(f"{order}{kind}{min(bits) // 8}")
    tiled = 324 in tags
    block = (int(tags[323]), int(tags[322])) if tiled else (int(tags.get(278, height)), width)
    planar = int(tags.get(284, 1)) == 2 and bands > 1
    return Page(tags, height, width, bands, dtype, block, tiled, planar)


def _many(value: Any) -> tuple[int, ...]:
    return tuple(map(int, value)) if isinstance(value, tuple) else (int(value),)


def _unpack(data: bytes, page: Page, places: list[tuple[int, int]], out: np.ndarray) -> None:
    """Decompress the blocks at `places` (start, size) into `out` (H, W, bands)."""
    assert page.dtype is not None
    item, bands = page.dtype.itemsize, out.shape[-1]
    (height, width), (down, across) = page.padded, page.block
    packing = int(page.tags.get(259, 1))
    predictor = int(page.tags.get(317, 1)) if packing in _PREDICTED else 1
    slabs = (_plain if packing == 1 else _packed)(data, page, places, width * bands * item)
    for top, slab in zip(range(0, height, down), slabs, strict=True):
        blocks = slab.reshape(len(slab), width // across, across, bands, item)
        pixels = _undo(blocks, predictor, page.dtype).reshape(len(slab), width, bands)
        out[top : top + down] = pixels[: len(out[top : top + down]), : page.width]


def _plain(
    data: bytes, page: Page, places: list[tuple[int, int]], width: int
) -> Iterator[np.ndarray]:
    """Yield rows (h, width) of bytes of an uncompressed page, by strips or rows of tiles."""
    across, down = page.padded[1] // page.block[1], page.block[0]
    for top in range(0, page.padded[0], down):
        rows = min(down, page.padded[0] - top)
        row = places[top // down * across :][:across]
        tiles = [np.frombuffer(data, np.uint8, rows * width // across, at) for at, _ in row]
        yield np.concatenate([tile.reshape(rows, -1) for tile in tiles], axis=1)


def _packed(
    data: bytes, page: Page, places: list[tuple[int, int]], width: int
) -> Iterator[np.ndarray]:
    """Yield rows (h, width) of bytes of a compressed page, decompressed by libtiff."""
    across, down = page.padded[1] // page.block[1], page.block[0]
    group = max(1, _SLAB // (width * down))
    for first in range(0, len(places) // across, group):
        height = min(group * down, page.padded[0] - first * down)
        some = places[first * across : (first + group) * across]
        picture = _grey([data[at : at + size] for at, size in some], page, height, width)
        with Image.open(io.BytesIO(picture), formats=("TIFF",)) as file:
            rows = np.asarray(file)
        for top in range(0, height, down):
            yield rows[top : top + down]


def _undo(packed: np.ndarray, predictor: int, dtype: np.dtype) -> np.ndarray:
    """Convert bytes (h, blocks, w, bands, item) to numbers, undoing the predictor."""
    h, blocks, w, bands, item = packed.shape
    if predictor == 3:  # bytes of equal significance together, highest first; then differences
        steps = packed.reshape(h, blocks, w * item, bands)
        flat = np.cumsum(steps, axis=2, dtype=np.uint8).reshape(h, blocks, item, w * bands)
        flat = np.ascontiguousarray(flat.swapaxes(-1, -2))
        return flat.view(dtype.newbyteorder(">")).reshape(h, blocks, w, bands)
    pixels = np.ascontiguousarray(packed).view(dtype)[..., 0]
    if predictor == 2:
        whole = np.dtype(f"u{item}")
        pixels = pixels.astype(dtype.newbyteorder("=")).view(whole)
        pixels = np.cumsum(pixels, axis=2, dtype=whole).view(dtype.newbyteorder("="))
    return pixels


def _grey(blocks: list[bytes], page: Page, height: int, width: int) -> bytes:
    """Build a TIFF file of one grey 8-bit picture from compressed strips or tiles."""
    sizes = [len(block) for block in blocks]
    starts = list(itertools.accumulate(sizes[:-1], initial=8))
    tags = {256: [width], 257: [height], 258: [8], 259: [int(page.tags.get(259, 1))], 262: [1]}
    tags[266] = [int(page.tags.get(266, 1))]  # order of bits in a byte
    if page.tiled:
        across = width * page.block[1] // page.padded[1]
        tags |= {322: [across], 323: [page.block[0]], 324: starts, 325: sizes}
    else:
        tags |= {273: starts, 278: [min(page.block[0], height)], 279: sizes}
    at = 8 + sum(sizes)
    after, entries, tail = at + 2 + 12 * len(tags) + 4, b"", b""
    for number, values in sorted(tags.items()):
        packed = struct.pack(f"<{len(values)}I", *values)
        if len(values) > 1:
            tail, packed = tail + packed, struct.pack("<I", after + len(tail))
        entries += struct.pack("<HHI", number, 4, len(values)) + packed
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"".join((b"II*\0", struct.pack("<I", at), *blocks, directory, tail))
