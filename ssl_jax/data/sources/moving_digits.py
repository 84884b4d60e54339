"""Clips of scikit-learn's digits that move over its photographs, with exact flow, masks and sound:
video without a download.
"""

import cv2
import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.sources import digits
from ssl_jax.data.sources.base import ArraySource, Sound

EMBEDDED = True  # the data come with a library
SIDE, DIGIT, FRAMES = 32, 24, 16  # side of a frame and of a digit in pixels; frames of a clip
ROOM = SIDE - DIGIT  # positions of a digit along an axis, less one
SPEED, PAN = 3, 1  # largest speed of a digit and of the camera, in pixels per frame
INK = 96  # grey level from which a pixel belongs to the digit
EVALUATION = 192  # columns at the right of both photographs, which only evaluation clips show
RATE = 8000  # samples per second
SAMPLES = 500  # samples per frame
LOW = 400.0  # pitch in Hz at the bottom of a frame; it is two octaves higher at the top


class MovingDigits(ArraySource):
    """One clip per digit: it moves at a constant speed and bounces off the border, while the camera
    pans over the photograph behind it. All motion is by whole pixels, so the flow is exact.

    A clip's image, its mask (1 in the digit, else 0) and its label are those of the middle frame.
    The tone's pitch is the height of the digit, its loudness the horizontal position. Motion,
    colours and background are drawn without regard to the label, so none of them tells the class.

    Args:
      name: name of the data set.
      glyphs: (N, 8, 8, 1) uint8, the digits.
      labels: (N,).
      photos: (2, H, W, 3) uint8, the part of the photographs that the clips show.
      seed: number of the random draws.
    """

    def __init__(
        self, name: str, glyphs: np.ndarray, labels: np.ndarray, photos: np.ndarray, seed: int
    ) -> None:
        count = len(glyphs)
        draw = np.random.RandomState(seed)  # its numbers are the same in every version of NumPy
        large = [cv2.resize(g, (DIGIT, DIGIT), interpolation=cv2.INTER_LINEAR) for g in glyphs]
        self._ink, self._photos = np.stack(large), photos
        self._colors = draw.randint(64, 256, (count, 3))
        self._photo = draw.randint(0, len(photos), count)
        span = np.array(photos.shape[1:3]) - SIDE - 2 * FRAMES
        self._corner = FRAMES + (draw.rand(count, 2) * span).astype(np.int64)
        self._pan = draw.randint(-PAN, PAN + 1, (count, 2))
        self._start = draw.randint(0, ROOM + 1, (count, 2))
        every = np.stack(np.meshgrid(*2 * [np.arange(-SPEED, SPEED + 1)]), -1).reshape(-1, 2)
        self._velocity = every[every.any(1)][draw.randint(0, len(every) - 1, count)]
        self._phase = draw.rand(count)
        self.lengths = np.full(count, FRAMES, np.int32)
        self.sounded = self.moving = True
        middle = FRAMES // 2
        frames = np.stack([self.read_frame(i, middle) for i in range(count)])
        masks = np.stack([self._mask(i, middle) for i in range(count)]).astype(np.uint8)
        super().__init__(name, frames, labels, digits.WORDS, masks=masks)

    def read_frame(self, index: int, frame: int) -> np.ndarray:
        y, x = self._corner[index] + frame * self._pan[index]
        image = self._photos[self._photo[index], y : y + SIDE, x : x + SIDE].copy()
        shades = self._ink[index][..., None] / 255 * self._colors[index]
        image[self._mask(index, frame)] = shades[self._ink[index] >= INK]
        return image

    def read_flow(self, index: int, frame: int) -> np.ndarray:
        here, there = self._place(index, np.array([frame, frame + 1]))
        digit = self._mask(index, frame)[..., None]
        return np.where(digit, there - here, -self._pan[index]).astype(np.float32)

    def read_sound(self, index: int) -> Sound:
        time = np.arange(FRAMES * SAMPLES) / SAMPLES
        frames = np.arange(FRAMES + 1)
        y, x = (np.interp(time, frames, p) / ROOM for p in self._place(index, frames).T)
        cycles = self._phase[index] + np.cumsum(LOW * 4 ** (1 - y)) / RATE
        wave = (0.25 + 0.5 * x) * np.sin(2 * np.pi * cycles)
        return Sound(np.round(wave * 2**15).astype(np.int16), RATE)

    def _place(self, index: int, frame: np.ndarray) -> np.ndarray:
        """Return the corner (y, x) of the digit in each of `frame` (n,): (n, 2)."""
        way = self._start[index] + frame[:, None] * self._velocity[index]
        return ROOM - np.abs(way % (2 * ROOM) - ROOM)  # there and back

    def _mask(self, index: int, frame: int) -> np.ndarray:
        """Return the pixels (SIDE, SIDE) bool of the digit."""
        mask = np.zeros((SIDE, SIDE), bool)
        ((y, x),) = self._place(index, np.array([frame]))
        mask[y : y + DIGIT, x : x + DIGIT] = self._ink[index] >= INK
        return mask


def load(path: str, split: str) -> MovingDigits:
    """Load 1437 training or 360 evaluation clips of 16 frames, 32 x 32, 16 frames per second."""
    from sklearn.datasets import load_sample_images  # takes a second to import

    if path:
        raise UserError(f"data 'moving_digits:{path}': moving_digits takes no path")
    source = digits.load("", split)
    photos = np.stack(load_sample_images().images)
    own = photos[:, :, :-EVALUATION] if split == "train" else photos[:, :, -EVALUATION:]
    assert source.arrays is not None and source.labels is not None
    return MovingDigits("moving_digits", source.arrays, source.labels, own, split != "train")


def held_out(path: str) -> MovingDigits:
    """Load the 360 evaluation clips."""
    return load(path, "eval")


def absolute(path: str) -> str:
    """Return `path` unchanged: moving_digits has none."""
    return path
