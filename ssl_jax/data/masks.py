"""Images with masks of class or object numbers: PNG files of indices beside the images."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from ssl_jax.core.errors import UserError
from ssl_jax.data.decode import DecodeError, decode


def pairs(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    """(image, mask) of equal stem in two folders, sorted; images without a mask are left out.

    Raises:
      UserError: a folder that is not there, or no pair.
    """
    for folder in (images, masks):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; images and masks go into one each")
    of = {path.stem: path for path in masks.iterdir() if path.suffix.lower() == ".png"}
    found = [(path, of[path.stem]) for path in sorted(images.iterdir()) if path.stem in of]
    if not found:
        raise UserError(f"{images}: no image has a mask {masks}/NAME.png of its name")
    return found


def read_image(path: Path, channels: int = 3) -> np.ndarray:
    """(H, W, channels) uint8.

    Raises:
      UserError: no image.
    """
    try:
        return decode(path.read_bytes(), channels)
    except (OSError, DecodeError) as e:
        raise UserError(f"{path}: {e}") from None


def read_mask(path: Path) -> np.ndarray:
    """(H, W) uint8: palette indices or grey values as they stand in the file.

    Raises:
      UserError: no image, or one of colours.
    """
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as file:
            mask = np.asarray(file.convert("L") if file.mode == "1" else file)
    except OSError as e:
        raise UserError(f"{path}: {e}") from None
    if mask.ndim != 2 or mask.min() < 0 or mask.max() > 255:
        raise UserError(f"{path}: a mask is a PNG of 8-bit indices, one a pixel, not {file.mode}")
    return mask.astype(np.uint8)


def nearest(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """A mask at another size, each pixel the one under its centre."""
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
