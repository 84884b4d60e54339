"""Pictures that several methods show: images of each prototype, tiles on a board."""

import jax
import jax.numpy as jnp

from ssl_jax.objectives.base import Picture

Array = jax.Array

ROWS = 8  # examples in a picture


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


def board(tiles: Array, rows: int) -> Array:
    """Join tiles (B, rows * columns, h, w, C), row by row, to (B, H, W, C), with lines between."""
    batch, count, height, width, channels = tiles.shape
    columns, gap = count // rows, max(1, width // 16)
    tiles = jnp.pad(tiles, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)))
    grid = tiles.reshape(batch, rows, columns, height + gap, width + gap, channels)
    whole = grid.swapaxes(2, 3).reshape(batch, rows * (height + gap), -1, channels)
    return whole[:, :-gap, :-gap]
