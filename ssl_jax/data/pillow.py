"""Conversion of pictures loaded by Pillow to arrays: by rows, on white, upright."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

ORIENTATION = 0x0112  # the tag in EXIF and TIFF
_ROWS = 1 << 18  # pixels converted at once


def convert(file: Image.Image, mode: str) -> np.ndarray:
    """Convert a loaded picture to "L", "RGB", "LA" or "RGBA" by rows, to hold only one copy."""
    out = np.empty((file.height, file.width, len(mode)), np.uint8)
    composite = "A" not in mode and file.format != "TIFF" and file.has_transparency_data
    top = 0
    for part in slabs(file):
        if composite:
            part = part.convert("RGBA")
            part = Image.alpha_composite(Image.new("RGBA", part.size, "white"), part)
        rows = np.asarray(part if part.mode == mode else part.convert(mode))
        out[top : top + len(rows)] = rows.reshape(len(rows), file.width, -1)
        top += len(rows)
    return out


def slabs(file: Image.Image) -> Iterator[Image.Image]:
    """Yield a loaded picture in slabs of rows."""
    step = max(1, _ROWS // file.width)
    for top in range(0, file.height, step):
        whole = step >= file.height
        yield file if whole else file.crop((0, top, file.width, min(top + step, file.height)))


def orientation(file: Image.Image) -> int:
    try:
        return int(file.getexif().get(ORIENTATION, 1))
    except Exception:  # a corrupt tag must not cost the picture
        return 1


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Rotate and mirror an (H, W, C) image according to its EXIF orientation, 1 to 8."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    down = -1 if orientation in (3, 4, 7, 8) else 1
    across = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(image[::down, ::across])


def on_white(image: np.ndarray) -> np.ndarray:
    """Blend an (H, W, 4) wide image with white, which is its brightest value."""
    out = np.empty((*image.shape[:2], 3), image.dtype)
    white = image[..., :3].max()
    for row, mixed in zip(image, out, strict=True):
        share = row[:, 3:].astype(np.float32) / np.iinfo(image.dtype).max
        mixed[:] = np.round(row[:, :3] * share + white * (1 - share))
    return out
