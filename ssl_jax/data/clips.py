"""Consecutive frames of clips, with one crop for all of them."""

from collections.abc import Callable

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Inputs
from ssl_jax.data.decode import TRIES, crop_resize, random_box
from ssl_jax.data.draws import fold, uniform
from ssl_jax.data.reader import Reader
from ssl_jax.data.sources.base import VERSION, Source

Run = Callable[[Callable[[int], None], int], None]  # calls a function on 0..n-1


class Clips:
    """Reader of `frames` consecutive frames from a random position in a clip.

    Position and crop are drawn from (seed, epoch, index); all frames have the same crop, with the
    size and area range of the first of `inputs.views`. A clip that is too short repeats its last
    frame. A clip with a corrupt frame at the position is replaced by another one, drawn from (seed,
    index, attempt).

    Raises:
      UserError: a source of images, or no view.
    """

    def __init__(self, source: Source, inputs: Inputs, channels: int, seed: int) -> None:
        if source.lengths is None:
            raise UserError(
                f"{source.name} has no frames, which this method needs; use frames:/path"
            )
        if not inputs.views:
            raise UserError("inputs: expected at least one view, whose size frames take; got none")
        self._view, self._count, self._group = inputs.views[0], inputs.frames, len(inputs.views)
        self._lengths = source.lengths.astype(np.int64)
        self._first = np.cumsum(self._lengths) - self._lengths
        self._seed = seed
        self._reader = Reader(_Frames(source, self._first), channels, seed)

    def batch(self, index: np.ndarray, epoch: int, run: Run) -> np.ndarray:
        """Read frames of the clips `index` (b,): (b, frames, size, size, C) uint8."""
        size = self._view.size
        shape = (len(index), self._count, size, size, self._reader.channels)
        out = np.empty(shape, np.uint8)

        def fill(row: int) -> None:
            out[row] = self.read(int(index[row]), epoch)

        run(fill, len(index))
        return out

    def read(self, index: int, epoch: int) -> np.ndarray:
        """Read frames of the clip `index`: (frames, size, size, C) uint8."""
        place = uniform(self._seed, epoch, index, self._group, 1, shape=(1,))[0]
        draws = uniform(self._seed, epoch, index, self._group, 0, shape=(TRIES, 4))
        attempt, chosen = 0, index
        while (images := self._frames(chosen, place)) is None:
            attempt += 1
            chosen = int(fold(self._seed, index, attempt) % np.uint64(len(self._lengths)))
        view = self._view
        height, width, _ = images[0].shape
        box = (0, 0, height, width)
        if not view.whole:
            box = random_box(height, width, draws, view.area, kind=view.crop)
        return np.stack([crop_resize(i, box, view.size, view.interpolation) for i in images])

    def _frames(self, index: int, place: float) -> list[np.ndarray] | None:
        """Read the frames from `place` in [0, 1) on; None if one is corrupt or has another size."""
        length = int(self._lengths[index])
        start = int(place * max(1, length - self._count + 1))
        images: list[np.ndarray] = []
        for frame in np.minimum(np.arange(start, start + self._count), length - 1).tolist():
            image = self._reader.try_pixels(int(self._first[index]) + frame)
            if image is None or (images and image.shape != images[0].shape):
                return None
            images.append(image)
        return images


class _Frames(Source):
    """Source of every frame of every clip of `clips` as a separate image."""

    def __init__(self, clips: Source, first: np.ndarray) -> None:
        assert clips.lengths is not None
        self.name, self.class_names, self.labels = clips.name, (), None
        self._clips, self._first = clips, first
        self.value_range = clips.value_range
        self._size = int(clips.lengths.sum())

    def __len__(self) -> int:
        return self._size

    def read(self, index: int) -> bytes | np.ndarray:
        return self._clips.read_frame(*self._place(index))

    def describe(self, index: int) -> str:
        clip, frame = self._place(index)
        return f"frame {frame} of {self._clips.describe(clip)}"

    def fingerprint(self, version: int = VERSION) -> str:
        return self._clips.fingerprint(version)

    def _place(self, index: int) -> tuple[int, int]:
        clip = int(np.searchsorted(self._first, index, "right")) - 1
        return clip, int(index - self._first[clip])
