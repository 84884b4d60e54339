"""Pictures that several methods show: images of each prototype, tiles on a board, orientations."""

import math

import jax
import jax.numpy as jnp

from ssl_jax.augment.patches import patchify, unpatchify
from ssl_jax.objectives.base import Picture

Array = jax.Array

ROWS = 8  # examples in a picture
NORMALIZED = (  # after the caption of reconstructed pixels
    " It predicts patches of mean 0 and deviation 1: the mean and deviation shown here "
    "are those of the hidden patch itself."
)
GLYPH = 8  # pixels along a cell of orientations: fewer show no direction


def prototypes(images: Array, scores: Array) -> Picture:
    """Show the prototypes that most images prefer, each with a row of its nearest images.

    Args:
      images: (B, H, W, C).
      scores: (B, K), of every image with every prototype; an image prefers the largest.
    """
    most, count = min(ROWS, scores.shape[1]), min(ROWS, len(images))
    uses = jnp.bincount(scores.argmax(1), length=scores.shape[1])
    rows = jax.lax.top_k(scores.T[jax.lax.top_k(uses, most)[1]], count)[1]
    caption = (
        f"Each row is one prototype: the {count} images that score highest with it, the highest "
        f"first. Of all {scores.shape[1]}, these {most} are preferred by most of the "
        f"{len(images)} images, in descending order."
    )
    return Picture(images[rows], caption)


def rotations(turned: Array, logits: Array) -> Picture:
    """Show images in every rotation (B, angles, H, W, C) with the predicted angle, given the logits
    (B, angles, angles) of each.
    """
    angles = turned.shape[1]
    prediction = logits.argmax(-1).astype(jnp.int32)
    truth = jnp.broadcast_to(jnp.arange(angles, dtype=jnp.int32), prediction.shape)
    caption = (
        "Each image is rotated by all angles; below it is the angle that the network predicts."
    )
    names = ("0°", "90°", "180°", "270°")[:: 4 // angles]
    columns = tuple(f"rotated by {name}" for name in names)
    return Picture(turned, caption, columns, prediction, truth, names)


def board(tiles: Array, rows: int) -> Array:
    """Join tiles (B, rows * columns, h, w, C), row by row, to (B, H, W, C), with lines between."""
    batch, count, height, width, channels = tiles.shape
    columns, gap = count // rows, max(1, width // 16)
    tiles = jnp.pad(tiles, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)))
    grid = tiles.reshape(batch, rows, columns, height + gap, width + gap, channels)
    whole = grid.swapaxes(2, 3).reshape(batch, rows * (height + gap), -1, channels)
    return whole[:, :-gap, :-gap]


def placements(first: Array, second: Array, places: Array) -> Array:
    """Show two patches (B, h, w, C) of each image on a board of 3 x 3: the first in the middle, the
    second at one of the eight `places` (B,) around it, in reading order.
    """
    empty = jnp.zeros((len(first), 9, *first.shape[1:]), first.dtype)
    cells = jnp.array([0, 1, 2, 3, 5, 6, 7, 8])
    rows = jnp.arange(len(first))
    return board(empty.at[:, 4].set(first).at[rows, cells[places]].set(second), 3)


def mosaic(codes: Array, vocabulary: int, sides: tuple[int, int], channels: int) -> Array:
    """Draw codes (B, h, w) in [0, vocabulary) as squares of one colour per code, in [0, 1]: (B,
    *sides, channels).
    """
    colors = jax.random.uniform(jax.random.key(0), (vocabulary, channels))
    squares = colors[codes].repeat(sides[0] // codes.shape[1], axis=1)
    return squares.repeat(sides[1] // codes.shape[2], axis=2)


def hide(images: Array, mask: Array) -> Array:
    """Set the patches of images (B, H, W, C) to 0 where `mask` (B, L) is 1."""
    patch = images.shape[1] // math.isqrt(mask.shape[1])
    return unpatchify(patchify(images, patch) * (1 - mask[..., None]), patch)


def reconstruct(images: Array, prediction: Array, mask: Array, normalized: bool) -> Array:
    """Replace patches of images (B, H, W, C) by their prediction (B, L, n) where `mask` (B, L) is
    1; with `normalized` it first gets the mean and deviation of the patch itself.
    """
    patch = images.shape[1] // math.isqrt(mask.shape[1])
    target, mask = patchify(images, patch), mask[..., None]
    if normalized:
        deviation = jnp.sqrt(jnp.var(target, axis=-1, keepdims=True, ddof=1) + 1e-6)
        prediction = prediction * deviation + jnp.mean(target, axis=-1, keepdims=True)
    return unpatchify(target * (1 - mask) + prediction * mask, patch)


def from_matches(images: Array, matches: Array, grid: tuple[int, int]) -> Array:
    """Put at each place of a map the part of the image that lies at another place.

    Args:
      images: (B, H, W, C); the grid need not divide their sides.
      matches: (B, rows * columns) int, the place at which each part is taken, row by row.
      grid: rows and columns of the map.

    Returns:
      (B, H, W, C).
    """
    rows, columns = grid
    batch, height, width, channels = images.shape
    cell = -(-height // rows), -(-width // columns)
    whole = (batch, rows * cell[0], columns * cell[1], channels)
    resized = images if whole == images.shape else jax.image.resize(images, whole, "linear")
    tiled = resized.reshape(batch, rows, cell[0], columns, cell[1], channels).swapaxes(2, 3)
    parts = tiled.reshape(batch, rows * columns, *cell, channels)
    moved = jnp.take_along_axis(parts, matches[:, :, None, None, None], axis=1)
    joined = moved.reshape(batch, rows, columns, *cell, channels).swapaxes(2, 3).reshape(whole)
    return joined if whole == images.shape else jax.image.resize(joined, images.shape, "linear")


def enlarge(images: Array, factor: int) -> Array:
    """Make each pixel of (B, H, W, C) a square of `factor` x `factor`."""
    return images.repeat(factor, axis=1).repeat(factor, axis=2)


def orientations(histograms: Array, bins: int, height: int) -> Array:
    """Draw histograms of `losses.hog`, one line along the edge per bin, as bright as the bin is
    full: (B, rows, columns, C bins) to (B, height, W, C), with 0 where there is no line.

    Args:
      histograms: cells of each image.
      bins: orientations per cell and channel.
      height: pixels along all cells of a column, a multiple of their number.
    """
    batch, rows, columns, _ = histograms.shape
    side = height // rows
    angle = (jnp.arange(bins) + 0.5) * jnp.pi / bins
    at = jnp.arange(side) - (side - 1) / 2
    # The angle is that of the gradient (sin, cos), so this is the distance from the edge's line.
    distance = jnp.sin(angle)[:, None, None] * at + jnp.cos(angle)[:, None, None] * at[:, None]
    lines = jnp.maximum(1 - jnp.abs(distance), 0)
    filled = histograms.reshape(batch, rows, columns, -1, bins)
    pixels = jnp.einsum("brckn,nyx->brycxk", filled, lines)
    return pixels.reshape(batch, height, columns * side, -1)
