"""Images cut into patches and tiles. Images are (H, W, C)."""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

# (down, across) of a cell's eight neighbours in reading order: the opposite of k is 7 - k.
OFFSETS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


def patchify(images: Array, patch: int) -> Array:
    """Cut images (B, H, W, C) into patches, row by row: (B, L, patch * patch * C).

    The values of a patch are in the order (row, column, channel).

    Raises:
      ValueError: H or W is not a multiple of `patch`.
    """
    b, height, width, c = images.shape
    if height % patch or width % patch:
        raise ValueError(f"patches of {patch} do not tile an image of {height}x{width}")
    rows, columns = height // patch, width // patch
    x = images.reshape(b, rows, patch, columns, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, rows * columns, patch * patch * c)


def unpatchify(patches: Array, patch: int, grid: tuple[int, int] | None = None) -> Array:
    """Join the patches (B, L, patch * patch * C) of `patchify` to images (B, H, W, C).

    Args:
      patches: as `patchify` returns them.
      patch: side of a patch.
      grid: (rows, columns) of patches; default: a square.

    Raises:
      ValueError: the patches do not fill the grid.
    """
    b, length, size = patches.shape
    rows, columns = grid or (math.isqrt(length),) * 2
    if rows * columns != length or size % patch**2:
        raise ValueError(
            f"patches: {patches.shape} is not a {rows}x{columns} grid of patches of {patch}x{patch}"
        )
    x = patches.reshape(b, rows, columns, patch, patch, size // patch**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, rows * patch, columns * patch, -1)


def montage(pieces: Array) -> Array:
    """Join four pieces per image, (B, 4, h, h, C) row by row, to (B, 2h, 2h, C)."""
    flat = pieces.reshape(*pieces.shape[:2], -1)
    return unpatchify(flat, pieces.shape[2])


def tiles(images: Array, rows: int, columns: int) -> Array:
    """Split (..., H, W, C) into (..., rows * columns, H // rows, W // columns, C), row by row.

    Remaining pixels at the bottom and the right are dropped.
    """
    *lead, height, width, channels = images.shape
    h, w = height // rows, width // columns
    cut = images[..., : rows * h, : columns * w, :]
    split = cut.reshape(*lead, rows, h, columns, w, channels).swapaxes(-4, -3)
    return split.reshape(*lead, rows * columns, h, w, channels)


def overlapping(images: Array, size: int, stride: int) -> Array:
    """Cut a grid of squares, one every `stride` pixels, row by row: (..., H, W, C) to
    (..., rows * columns, size, size, C).

    Remaining pixels at the bottom and the right are dropped.
    """
    height, width = images.shape[-3:-1]
    corners = itertools.product(*(range(0, n - size + 1, stride) for n in (height, width)))
    return jnp.stack([images[..., y : y + size, x : x + size, :] for y, x in corners], axis=-4)


def grid_corners(
    key: Array,
    rows: int,
    columns: int,
    pitch: int,
    jitter: tuple[int, int],
    origin: Array | tuple[int, int] = (0, 0),
) -> Array:
    """Return the upper left corners (y, x) of a grid of tiles, (rows * columns, 2) int32, by rows.

    Args:
      key: random key of the jitter.
      pitch: pixels from one tile of the grid to the next.
      jitter: lowest and highest offset in pixels, inclusive, drawn for each tile and axis.
      origin: corner of the grid.
    """
    cells = np.stack(np.divmod(np.arange(rows * columns), columns), axis=-1) * pitch
    offsets = jax.random.randint(key, cells.shape, jitter[0], jitter[1] + 1, jnp.int32)
    return jnp.asarray(origin, jnp.int32) + cells.astype(np.int32) + offsets


def cut(image: Array, corners: Array, size: int) -> Array:
    """Cut squares (N, size, size, C) at corners (N, 2), or (N, C, 2), one per channel.

    Squares that would leave the image are moved back into it.
    """
    channels = image.shape[-1]
    if corners.ndim == 3:
        planes = jnp.moveaxis(image, -1, 0)[..., None]
        by_channel = jax.vmap(lambda plane, at: cut(plane, at, size), (0, 1), -1)
        return by_channel(planes, corners)[..., 0, :]
    corners = jnp.maximum(corners, 0)  # dynamic_slice counts negative starts from the end
    window = (size, size, channels)
    corners = jnp.pad(corners, ((0, 0), (0, 1)))  # start at the first channel
    return jax.vmap(lambda at: jax.lax.dynamic_slice(image, at, window))(corners)


def random_places(key: Array, counts: Sequence[int], most: int) -> list[Array]:
    """Draw up to `most` of the cells of several maps without repetition, (P,) int32 for each.

    Args:
      key: random key, the same for all images of a batch (CUT, 2007.15651).
      counts: number of cells of each map.
    """
    keys = jax.random.split(key, len(counts))
    return [jax.random.permutation(k, n)[:most] for k, n in zip(keys, counts, strict=True)]


def jigsaw_tiles(
    key: Array, image: Array, rows: int = 3, size: int = 64, channel_jitter: int = 0
) -> Array:
    """Cut a random square from each cell of a grid, row by row: (rows * rows, size, size, C).

    Jigsaw (Noroozi and Favaro 2016): 225 or 255 px in 3 x 3 cells, 64 px tiles. The gaps between
    the tiles prevent solving the puzzle by continuing edges.

    Args:
      image: (H, W, C), square.
      channel_jitter: each channel is moved down and right by up to this many further pixels,
        independently (2 in the authors' code), which hides chromatic aberration; channels may leave
        the cell.
    """
    cell = image.shape[0] // rows
    corners = grid_corners(key, rows, rows, cell, (0, cell - size))
    if channel_jitter:
        shape = (len(corners), image.shape[-1], 2)
        extra = jax.random.randint(jax.random.fold_in(key, 1), shape, 0, channel_jitter + 1)
        corners = corners[:, None] + extra
    return cut(image, corners, size)


def context_patches(
    key: Array, image: Array, rows: int = 3, size: int = 96, gap: int = 48, jitter: int = 7
) -> Array:
    """Cut patches `gap` pixels apart, each moved by up to `jitter`: (rows * rows, size, size, C).

    Context prediction (Doersch et al. 2015). The grid has a random position at which it fits
    without the jitter; a patch that the jitter moves out of the image is moved back.
    """
    origin_key, key = jax.random.split(key)
    span = rows * size + (rows - 1) * gap
    room = np.maximum(np.array(image.shape[:2]) - span, 0) + 1
    origin = jax.random.randint(origin_key, (2,), 0, room.astype(np.int32))
    return cut(image, grid_corners(key, rows, rows, size + gap, (-jitter, jitter), origin), size)


def neighbours(rows: int, pairs: Literal["centre", "all"]) -> tuple[np.ndarray, np.ndarray]:
    """List the pairs (m, 2) int32 of adjacent cells of a rows x rows grid and their classes (m,).

    The class is the place of the second cell relative to the first, see `OFFSETS`. "centre": the
    first is the middle cell of an odd grid; "all": every two neighbours in both orders.
    """
    pairs_and_classes = [
        (y * rows + x, (y + dy) * rows + x + dx, k)
        for y in range(rows)
        for x in range(rows)
        for k, (dy, dx) in enumerate(OFFSETS)
        if 0 <= y + dy < rows and 0 <= x + dx < rows
    ]
    if pairs == "centre":
        pairs_and_classes = [pair for pair in pairs_and_classes if pair[0] == rows * rows // 2]
    table = np.array(pairs_and_classes, np.int32)
    return table[:, :2], table[:, 2]


def standardize(images: Array, per_channel: bool = False) -> Array:
    """Subtract the mean of each tile of (..., H, W, C) and divide by the standard deviation.

    The latter is at least 1 / sqrt(n) for n values, as in TensorFlow's `per_image_standardization`;
    a flat tile is exactly 0.

    Without it a network could use the tiles' brightness. `per_channel` treats every channel
    separately.
    """
    axes = (-3, -2) if per_channel else (-3, -2, -1)
    n = np.prod([images.shape[a] for a in axes])
    # Subtract one pixel first: the mean of equal numbers is exact only up to rounding.
    first = images[..., :1, :1, :] if per_channel else images[..., :1, :1, :1]
    centred = images - first
    centred = centred - centred.mean(axes, keepdims=True)
    deviation = jnp.sqrt(jnp.square(centred).mean(axes, keepdims=True))
    return centred / jnp.maximum(deviation, np.float32(n**-0.5))


def tubelets(clips: Array, frames: int, patch: int) -> Array:
    """Cut clips (B, T, H, W, C) into tubelets of `frames` frames and `patch` pixels a side, ordered
    by time, row, column: (B, N, frames * patch * patch * C).

    Raises:
      ValueError: they do not tile the clips.
    """
    b, times, height, width, channels = clips.shape
    if times % frames or height % patch or width % patch:
        raise ValueError(
            f"tubelets of {frames} x {patch} x {patch} do not tile clips of "
            f"{times} x {height} x {width}"
        )
    shape = (b, times // frames, frames, height // patch, patch, width // patch, patch, channels)
    cells = clips.reshape(shape).transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return cells.reshape(b, -1, frames * patch * patch * channels)
