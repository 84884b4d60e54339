"""Consecutive frames of clips, with one crop for all of them, their flow and their sound."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Inputs
from ssl_jax.data.decode import TRIES, Box, crop_resize, random_box
from ssl_jax.data.draws import fold, uniform
from ssl_jax.data.masks import crop_nearest
from ssl_jax.data.reader import Reader
from ssl_jax.data.sound import read_wav, window
from ssl_jax.data.sources.base import VERSION, Sound, Source

Run = Callable[[Callable[[int], None], int], None]  # calls a function on 0..n-1


class Clips:
    """Reader of `frames` consecutive frames from a random position in a clip, of their flow, and of
    `sound` samples of its sound track from the time of the first of these frames.

    Position and crop are drawn from (seed, epoch, index); all frames have the same crop, with the
    size and area range of the first of `inputs.views`. A clip that is too short repeats its last
    frame, without motion, and its sound ends in silence. A clip with a corrupt frame at the
    position is replaced by another one, drawn from (seed, index, attempt), with its flow and sound.

    Raises:
      UserError: a source of images, or without sound or flow, or in which all clips are too short;
        no view; an unreadable sound track.
    """

    def __init__(self, source: Source, inputs: Inputs, channels: int, seed: int) -> None:
        if source.lengths is None:
            raise UserError(
                f"{source.name} has no frames, which this method needs; use frames:/path"
            )
        if not inputs.views:
            raise UserError("inputs: expected at least one view, whose size frames take; got none")
        if inputs.sound and not source.sounded:
            raise UserError(
                f"{source.name} has no sound, which this method needs; put the sound of the clip "
                "frames/CLIP/ into audio/CLIP.wav and use frames:/path/frames"
            )
        if inputs.flow and not source.moving:
            raise UserError(
                f"{source.name} has no optical flow, which this method needs; use moving_digits"
            )
        if (longest := int(source.lengths.max())) < inputs.frames:
            raise UserError(
                f"{source.name}: the longest clip has {longest} frames, but this method needs "
                f"{inputs.frames}; use longer clips, or a clip of {longest} frames in the config"
            )
        self._source, self._view, self._group = source, inputs.views[0], len(inputs.views)
        self._count, self._samples = inputs.frames, inputs.sound
        self._lengths = source.lengths.astype(np.int64)
        self._first = np.cumsum(self._lengths) - self._lengths
        self._seed = seed
        self._reader = Reader(_Frames(source, self._first), channels, seed)
        self._rate = _track(source, 0).rate if inputs.sound else 0
        self._inputs = inputs

    def batch(self, index: np.ndarray, epoch: int, run: Run) -> dict[str, np.ndarray]:
        """Read the clips `index` (b,): `frames` (b, frames, h, w, C) uint8, `flow` (b, frames, h,
        w, 2) float32 and `sound` (b, sound) int16, those that are requested.
        """
        shapes = self._inputs.shapes(len(index), self._reader.channels)
        out: dict[str, np.ndarray] = {
            name: np.empty(shapes[name].shape, shapes[name].dtype)
            for name in ("frames", "flow", "sound")
            if name in shapes
        }

        def fill(row: int) -> None:
            for name, array in self.read(int(index[row]), epoch).items():
                out[name][row] = array

        run(fill, len(index))
        return out

    def read(self, index: int, epoch: int) -> dict[str, np.ndarray]:
        """Read the clip `index`: what `batch` holds of it."""
        place = uniform(self._seed, epoch, index, self._group, 1, shape=(1,))[0]
        draws = uniform(self._seed, epoch, index, self._group, 0, shape=(TRIES, 4))
        attempt, chosen = 0, index
        while (images := self._frames(chosen, place)) is None:
            attempt += 1
            chosen = int(fold(self._seed, index, attempt) % np.uint64(len(self._lengths)))
        out: dict[str, np.ndarray] = {}
        view = self._view
        if images:
            height, width, _ = images[0].shape
            box = (0, 0, height, width)
            if not view.whole:
                box = random_box(height, width, draws, view.area, kind=view.crop)
            crops = [crop_resize(i, box, view.size, view.interpolation) for i in images]
            out["frames"] = np.stack(crops)
            if self._inputs.flow:
                out["flow"] = self._flow(chosen, place, box)
        if self._samples:
            out["sound"] = self._sound(chosen, place)
        return out

    def _start(self, index: int, place: float) -> int:
        """Return the first frame, for `place` in [0, 1)."""
        return int(place * max(1, int(self._lengths[index]) - max(self._count, 1) + 1))

    def _frames(self, index: int, place: float) -> list[np.ndarray] | None:
        """Read the frames from `place` on; None if one is corrupt or has another size."""
        images: list[np.ndarray] = []
        for frame in self._numbers(index, place):
            image = self._reader.try_pixels(int(self._first[index]) + frame)
            if image is None or (images and image.shape != images[0].shape):
                return None
            images.append(image)
        return images

    def _numbers(self, index: int, place: float) -> list[int]:
        """Return the numbers of the frames from `place` on; the last one may be repeated."""
        start, last = self._start(index, place), int(self._lengths[index]) - 1
        numbers: list[int] = np.minimum(np.arange(start, start + self._count), last).tolist()
        return numbers

    def _flow(self, index: int, place: float, box: Box) -> np.ndarray:
        """Read the flow of the frames from `place` on, in pixels of the crop `box`."""
        numbers, sides = self._numbers(index, place), self._view.sides
        each = [crop_nearest(self._source.read_flow(index, n), box, *sides) for n in numbers]
        flow = np.stack(each) * (np.array(sides) / box[2:]).astype(np.float32)
        last = int(self._lengths[index]) - 1
        if numbers.count(last) > 1:
            flow[np.array(numbers) == last] = 0  # copies of the last frame do not move
        return flow

    def _sound(self, index: int, place: float) -> np.ndarray:
        track, rate = _track(self._source, index)
        if rate != self._rate:
            where = self._source.read_sound(index)
            raise UserError(
                f"{where}: {rate} samples per second, but the first clip has {self._rate}; convert "
                f"all to one rate: ffmpeg -i IN -ar {self._rate} OUT"
            )
        first = self._start(index, place) * len(track) // int(self._lengths[index])
        return window(track, first, self._samples)


def _track(source: Source, index: int) -> Sound:
    """Read the sound track of a clip."""
    track = source.read_sound(index)
    return read_wav(track) if isinstance(track, Path) else track


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
