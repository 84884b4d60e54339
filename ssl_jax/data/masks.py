"""Images with masks of class or object numbers: PNG files of indices beside the images."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ssl_jax.core.errors import UserError
from ssl_jax.data.decode import DecodeError, averaged, check_size, decode, opened
from ssl_jax.data.levels import Range

IGNORED = 255  # a pixel without a class


class Scenes(NamedTuple):
    """Images with the class of each pixel, all resized to one square.

    Attributes:
      files: of each, its image and its mask.
      size: side of the square.
      channels: of the images.
      reduce_zero_label: 0 is no class, and the classes are counted from 1 (ADE20K).
      value_range: of the images, see `decode`.
    """

    files: list[tuple[Path, Path]]
    size: int
    channels: int
    reduce_zero_label: bool
    value_range: Range = ()

    @classmethod
    def of(
        cls,
        folder: str,
        size: int,
        channels: int,
        reduce_zero_label: bool,
        value_range: Range = (),
    ) -> "Scenes":
        """Those of folder/images and folder/masks, paired by name.

        Raises:
          UserError: see `pairs`.
        """
        path = Path(folder).expanduser()
        return cls(
            pairs(path / "images", path / "masks"), size, channels, reduce_zero_label, value_range
        )

    def mask(self, row: int) -> np.ndarray:
        """Classes (size, size) uint8 of one of them, `IGNORED` where there is none."""
        mask = nearest(read_mask(self.files[row][1]), self.size, self.size)
        if self.reduce_zero_label:
            mask = np.where((mask == 0) | (mask == IGNORED), IGNORED, mask - 1)
        return mask

    def image(self, row: int) -> np.ndarray:
        """(size, size, channels) uint8."""
        image = read_image(self.files[row][0], self.channels, self.value_range)
        return averaged(image, self.size, self.size)

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images and masks of these rows; of row -1 zeros and nothing but `IGNORED`."""
        images = np.zeros((len(rows), self.size, self.size, self.channels), np.uint8)
        masks = np.full((len(rows), self.size, self.size), IGNORED, np.uint8)

        def fill(place: int) -> None:
            images[place], masks[place] = self.image(rows[place]), self.mask(rows[place])

        with ThreadPoolExecutor() as pool:
            list(pool.map(fill, np.flatnonzero(rows >= 0)))
        return images, masks

    def num_classes(self) -> int:
        """One more than the highest class in any mask.

        Raises:
          UserError: there is none.
        """
        with ThreadPoolExecutor() as pool:
            masks = pool.map(self.mask, range(len(self.files)))
            highest = max(max(np.setdiff1d(mask, [IGNORED]), default=-1) for mask in masks)
        if highest < 0:
            raise UserError(f"{self.files[0][1].parent}: no mask has a class")
        return int(highest) + 1


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


def read_image(path: Path, channels: int = 3, value_range: Range = ()) -> np.ndarray:
    """(H, W, channels) uint8; `value_range` as for `decode`.

    Raises:
      UserError: no image.
    """
    try:
        return decode(_bytes(path), channels, None, value_range)
    except (OSError, DecodeError) as e:
        raise UserError(f"{path}: {e}") from None


def read_mask(path: Path) -> np.ndarray:
    """(H, W) uint8: palette indices or grey values as they stand in the file.

    Raises:
      UserError: no image, or one of colours.
    """
    try:
        with opened(_bytes(path)) as file:
            mask = np.asarray(file.convert("L") if file.mode == "1" else file)
    except (OSError, DecodeError) as e:
        raise UserError(f"{path}: {e}") from None
    if mask.ndim != 2 or mask.min() < 0 or mask.max() > 255:
        raise UserError(f"{path}: a mask is a PNG of 8-bit indices, one a pixel, not {file.mode}")
    return mask.astype(np.uint8)


def _bytes(path: Path) -> bytes:
    check_size(path.stat().st_size)
    return path.read_bytes()


def nearest(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """A mask at another size, each pixel the one under its centre."""
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
