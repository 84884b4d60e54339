"""Random crops of scenes for training, and windows that slide over whole images for testing."""

from collections.abc import Callable, Iterator

import cv2
import numpy as np

from ssl_jax.data.decode import averaged
from ssl_jax.data.masks import IGNORED, Scenes, nearest

RATIO = (0.5, 2.0)  # of the scale of a crop


def crop(scenes: Scenes, row: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a random crop of a scene, (size, size, channels) and (size, size) uint8: the shorter
    side becomes `size` times a factor from 0.5 to 2, and half of the crops are mirrored; what lies
    outside is black and has no class (mmsegmentation's training).
    """
    image, mask = scenes.pixels(row), scenes.native(row)
    size, scale = scenes.size, rng.uniform(*RATIO) * scenes.size / min(mask.shape)
    shape = [max(round(side * scale), 1) for side in mask.shape]
    image, mask = resized(image, *shape), nearest(mask, *shape)
    below = [max(size - side, 0) for side in shape]
    mask = np.pad(mask, [(0, b) for b in below], constant_values=IGNORED)
    image = np.pad(image, [*((0, b) for b in below), (0, 0)])
    top, left = (int(rng.integers(side - size + 1)) for side in mask.shape)
    image, mask = (x[top : top + size, left : left + size] for x in (image, mask))
    return (image[:, ::-1], mask[:, ::-1]) if rng.random() < 0.5 else (image, mask)


def starts(length: int, size: int, stride: int) -> list[int]:
    """Return the first pixels of windows of `size` that cover `length`, `stride` apart; the last is
    moved back to end with the image.
    """
    if length <= size:
        return [0]
    count = -(-(length - size) // stride) + 1
    return [min(i * stride, length - size) for i in range(count)]


def windows(image: np.ndarray, size: int, stride: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield the top, left and pixels (size, size, channels) of each window of an image, which is
    padded with black if it is smaller.
    """
    height, width = image.shape[:2]
    padded = np.pad(image, [(0, max(size - height, 0)), (0, max(size - width, 0)), (0, 0)])
    for top in starts(height, size, stride):
        for left in starts(width, size, stride):
            yield top, left, padded[top : top + size, left : left + size]


def slide(
    predict: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    size: int,
    stride: int,
    classes: int,
    batch: int,
) -> np.ndarray:
    """Return the mean of the predictions (H, W, classes) float32 of all windows over each pixel.

    Args:
      predict: function of windows (batch, size, size, channels) uint8; returns (batch, size, size,
        classes).
      batch: windows per call; the last ones are padded with zeros.
    """
    height, width = image.shape[:2]
    total = np.zeros((max(height, size), max(width, size), classes), np.float32)
    count = np.zeros((*total.shape[:2], 1), np.float32)
    pieces = list(windows(image, size, stride))
    for start in range(0, len(pieces), batch):
        part = pieces[start : start + batch]
        pixels = np.zeros((batch, size, size, image.shape[-1]), np.uint8)
        pixels[: len(part)] = np.stack([piece for *_, piece in part])
        for (top, left, _), own in zip(part, predict(pixels), strict=False):
            total[top : top + size, left : left + size] += own
            count[top : top + size, left : left + size] += 1
    return (total / np.maximum(count, 1))[:height, :width]


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an image (H, W, channels) uint8: averaged if it becomes smaller, else bilinearly."""
    if height <= image.shape[0] and width <= image.shape[1]:
        return averaged(image, height, width)
    out = [
        cv2.resize(image[..., c], (width, height), interpolation=cv2.INTER_LINEAR)
        for c in range(image.shape[-1])
    ]
    return np.stack(out, axis=-1)


def whole(scenes: Scenes, row: int, scale: float) -> np.ndarray:
    """Return the image of a scene, its shorter side resized to `scale` times `size`."""
    image = scenes.pixels(row)
    factor = scale * scenes.size / min(image.shape[:2])
    return resized(image, *(max(round(side * factor), 1) for side in image.shape[:2]))
