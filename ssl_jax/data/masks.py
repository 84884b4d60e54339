"""Images with masks of class or object numbers, which are PNG files of indices."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ssl_jax.core.errors import UserError, reason
from ssl_jax.data.decode import Box, DecodeError, averaged, check_size, decode, open_image
from ssl_jax.data.levels import Range
from ssl_jax.data.scene_folders import scene_pairs
from ssl_jax.data.sources.base import Source

IGNORED = 255  # a pixel without a class


class Masks:
    """Masks of the images of a data set, for views.

    The mask of an image is the file `folder`/NAME.png, NAME being the image's name in `source`
    without its extension ("train/cat/1"), or what the source itself has.

    Raises:
      UserError: neither a folder nor masks in the source; a folder for images without names.
    """

    def __init__(self, source: Source, folder: str = "") -> None:
        self._source = source
        self._folder = Path(folder).expanduser() if folder else None
        if self._folder is None and not source.masked:
            raise UserError(
                f"data.masks: {source.name} has no masks, which this method needs; set "
                "--config.data.masks=/path, a folder of NAME.png for each image; see docs/data.md"
            )
        if self._folder is not None and source.names is None:
            raise UserError(
                f"data.masks: the images of {source.name} have no names; see docs/data.md"
            )

    def read(self, index: int, sides: tuple[int, int]) -> np.ndarray:
        """Read the mask (H, W) uint8 of an image whose (height, width) is `sides`.

        Raises:
          UserError: a missing or unreadable mask, or one of another size.
        """
        where = f"the mask of {self._source.describe(index)}"
        if self._folder is None:
            mask = self._source.read_mask(index)
        else:
            assert self._source.names is not None
            mask = self._folder / Path(self._source.names[index]).with_suffix(".png")
        if isinstance(mask, Path):
            if not mask.is_file():
                raise UserError(f"{self._source.describe(index)}: no mask {mask}")
            where, mask = str(mask), read_mask(mask)
        if mask.shape != sides:
            raise UserError(
                f"{where} has {mask.shape[0]} x {mask.shape[1]} pixels, expected those of its "
                f"image, {sides[0]} x {sides[1]}"
            )
        return mask


def crop_nearest(mask: np.ndarray, box: Box, height: int, width: int) -> np.ndarray:
    """Crop a box (top, left, height, width) of a mask (H, W), resized to (height, width); each
    pixel takes the value under its centre.
    """
    top, left, h, w = box
    rows = top + (2 * np.arange(height) + 1) * h // (2 * height)
    columns = left + (2 * np.arange(width) + 1) * w // (2 * width)
    return mask[rows[:, None], columns]


class Scenes(NamedTuple):
    """Images with the class of each pixel, all resized to one square.

    Attributes:
      files: (image, mask) of each scene.
      size: side of the square.
      channels: channels of the images.
      reduce_zero_label: 0 is not a class, and classes are counted from 1 (ADE20K).
      value_range: range of the images, see `decode`.
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
        """Make scenes from a folder of images and masks in one of the layouts of `scene_pairs`.

        Raises:
          UserError: see `scene_pairs`.
        """
        return cls(scene_pairs(folder), size, channels, reduce_zero_label, value_range)

    def mask(self, row: int) -> np.ndarray:
        """Read the classes of a scene, (size, size) uint8, `IGNORED` for pixels without a class."""
        return nearest(self.native(row), self.size, self.size)

    def native(self, row: int) -> np.ndarray:
        """Read the classes of a scene, (H, W) uint8 of the file's size."""
        mask = read_mask(self.files[row][1])
        if self.reduce_zero_label:
            mask = np.where((mask == 0) | (mask == IGNORED), IGNORED, mask - 1).astype(np.uint8)
        return mask

    def image(self, row: int) -> np.ndarray:
        """Read the image of a scene, (size, size, channels) uint8."""
        return averaged(self.pixels(row), self.size, self.size)

    def pixels(self, row: int) -> np.ndarray:
        """Read the image of a scene, (H, W, channels) uint8 of the file's size."""
        return read_image(self.files[row][0], self.channels, self.value_range)

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read the images and masks of `rows`; row -1 gives zeros and only `IGNORED`."""
        images = np.zeros((len(rows), self.size, self.size, self.channels), np.uint8)
        masks = np.full((len(rows), self.size, self.size), IGNORED, np.uint8)

        def fill(place: int) -> None:
            images[place], masks[place] = self.image(rows[place]), self.mask(rows[place])

        with ThreadPoolExecutor() as pool:
            list(pool.map(fill, np.flatnonzero(rows >= 0)))
        return images, masks

    def num_classes(self) -> int:
        """Return the highest class in any mask plus one.

        Raises:
          UserError: no mask has a class.
        """
        with ThreadPoolExecutor() as pool:
            masks = pool.map(self.mask, range(len(self.files)))
            highest = max(max(np.setdiff1d(mask, [IGNORED]), default=-1) for mask in masks)
        if highest < 0:
            raise UserError(f"{self.files[0][1].parent}: no mask has a class")
        return int(highest) + 1


def read_image(path: Path, channels: int = 3, value_range: Range = ()) -> np.ndarray:
    """Read an image as (H, W, channels) uint8; `value_range` as for `decode`.

    Raises:
      UserError: not an image.
    """
    try:
        return decode(_bytes(path), channels, None, value_range)
    except (OSError, DecodeError) as e:
        raise UserError(f"{path}: {reason(e)}") from None


def read_mask(path: Path) -> np.ndarray:
    """Read a mask as (H, W) uint8: the palette indices or grey values of the file.

    Raises:
      UserError: not an image, or one with colours.
    """
    try:
        with open_image(_bytes(path)) as file:
            mask = np.asarray(file.convert("L") if file.mode == "1" else file)
    except (OSError, DecodeError) as e:
        raise UserError(f"{path}: {reason(e)}") from None
    if mask.ndim != 2 or mask.min() < 0 or mask.max() > 255:
        raise UserError(
            f"{path}: expected a mask of 8-bit indices, one per pixel, got a {file.mode} image"
        )
    return mask.astype(np.uint8)


def _bytes(path: Path) -> bytes:
    check_size(path.stat().st_size)
    return path.read_bytes()


def nearest(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a mask; each pixel takes the value under its centre."""
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
