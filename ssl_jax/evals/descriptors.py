"""Descriptors of single image files, in their own proportions: for copies and instances."""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.data.decode import averaged
from ssl_jax.data.listing import image_files
from ssl_jax.data.masks import read_image
from ssl_jax.evals import features
from ssl_jax.evals.base import Batch, Subject, call
from ssl_jax.evals.checks import check_varied
from ssl_jax.nets.layers import at_least_float32
from ssl_jax.objectives.base import Encoder

Array = jax.Array
Descriptor = Literal["pooled", "gem", "cls_gem"]
Box = tuple[float, float, float, float]

MULTIPLE = 32  # sides are multiples of it, so that few shapes are compiled
POWER, LEAST = 4.0, 1e-6  # of the generalised mean
PIXELS = 16  # side of raw pixels


def files_in(folder: Path) -> list[Path]:
    """List the image files below a folder, sorted.

    Raises:
      UserError: no such folder, or no image in it.
    """
    folder = folder.expanduser()
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    paths, _ = image_files(str(folder), str(folder))
    return [folder / path for path in paths]


def describe(
    subject: Subject,
    files: Sequence[Path],
    descriptor: Descriptor,
    size: int,
    square: bool = False,
    scales: Sequence[float] = (1.0,),
    boxes: Sequence[Box | None] = (),
) -> np.ndarray:
    """Return the descriptors (N, D) float32 of image files.

    Args:
      descriptor: "pooled": the network's own output; "gem": the generalised mean, of power 4, of
        the last map; "cls_gem": the class token before it, if there is one.
      size: the longer side is resized to it, the other one to the multiple of 32 that fits its
        proportion best.
      square: resize both sides to `size`.
      scales: factors of `size`; the descriptors are averaged.
      boxes: (left, top, right, bottom) pixels to crop each file to; None for all of it.

    Raises:
      UserError: a file that is no image, or an empty box.
      NotMeasurable: descriptors that are not finite, or the same for all of several files.
    """
    total: np.ndarray | None = None
    for scale in scales:
        side = max(round(size * scale), 1)
        rows = _of_scale(subject, files, descriptor, side, square, boxes or [None] * len(files))
        total = rows if total is None else total + rows
    assert total is not None
    check_varied(total, subject.what)
    return total / len(scales)


def _of_scale(
    subject: Subject,
    files: Sequence[Path],
    descriptor: Descriptor,
    side: int,
    square: bool,
    boxes: Sequence[Box | None],
) -> np.ndarray:
    images = subject.images
    options = images.channels, images.train.source.value_range

    def read(row: int) -> np.ndarray:
        return _cropped(read_image(files[row], *options), boxes[row], files[row])

    # One pass for the shapes, one for the pixels: the images need not fit into memory.
    groups: dict[tuple[int, int], list[int]] = {}
    for row in range(len(files)):
        height, width = read(row).shape[:2]
        shape = (side, side) if square else _shape(height, width, side)
        groups.setdefault(shape, []).append(row)
    out: np.ndarray | None = None
    for shape, group in groups.items():
        batches = _batches(subject, read, shape, group)
        fn = functools.partial(call, _descriptors, images.view, (descriptor,), subject.encoder)
        rows, index = features.collect(fn, batches, images.mesh)
        out = np.empty((len(files), rows.shape[1]), np.float32) if out is None else out
        out[index] = rows
    assert out is not None
    return out


def _batches(
    subject: Subject, read: Callable[[int], np.ndarray], shape: tuple[int, int], group: list[int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield this process's rows of batches of images of one shape."""
    images = subject.images
    size = images.mesh.size
    batch = max(min(images.batch_size, len(group)) // size, 1) * size
    mine = sharding.local_rows(images.mesh, batch)
    for start in range(0, len(group), batch):
        rows = [*group[start : start + batch]]
        rows += [-1] * (batch - len(rows))
        index = np.array(rows, np.int32)[mine]
        pixels = np.zeros((len(index), *shape, images.channels), np.uint8)
        for place, row in enumerate(index):
            if row >= 0:
                pixels[place] = averaged(read(row), *shape)
        yield pixels, index


def _shape(height: int, width: int, side: int) -> tuple[int, int]:
    """Return the shape of the resized image."""
    scale = side / max(height, width)
    longest = max(side // MULTIPLE, 1) * MULTIPLE

    def rounded(length: int) -> int:
        return int(np.clip(round(length * scale / MULTIPLE), 1, longest // MULTIPLE)) * MULTIPLE

    return rounded(height), rounded(width)


def _cropped(image: np.ndarray, box: Box | None, file: Path) -> np.ndarray:
    if box is None:
        return image
    left, top, right, bottom = (max(round(x), 0) for x in box)
    part = image[top:bottom, left:right]
    if not part.size:
        raise UserError(
            f"{file}: the box {box} holds no pixel of {image.shape[1]} x {image.shape[0]}"
        )
    return part


def _descriptors(encoder: Encoder | None, batch: Batch, descriptor: Descriptor) -> Array:
    """Return (B, D) float32; of raw pixels, (B, 16 * 16 * C)."""
    if encoder is None:
        pixels = batch.raw.astype(jnp.float32) / 255
        shape = (len(pixels), PIXELS, PIXELS, pixels.shape[-1])
        return jax.image.resize(pixels, shape, "linear").reshape(len(pixels), -1)
    outputs = encoder.features(batch.images)
    if descriptor == "pooled":
        return at_least_float32(outputs.pooled)
    last = outputs.stage(-1)
    positive = jnp.maximum(at_least_float32(last.whole_map), LEAST)
    gem = jnp.mean(positive**POWER, axis=(1, 2)) ** (1 / POWER)
    if descriptor == "gem" or last.cls is None:
        return gem
    return jnp.concatenate([at_least_float32(last.cls), gem], axis=-1)
