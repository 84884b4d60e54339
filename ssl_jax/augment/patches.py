"""Images as grids of patches, and back. Any leading axes."""

import jax

Array = jax.Array


def patchify(images: Array, patch: int) -> Array:
    """(..., H, W, C) -> (..., L, patch * patch * C), row by row; in a patch (row, column, channel).

    Raises:
      ValueError: a side that `patch` does not divide.
    """
    *lead, height, width, channels = images.shape
    if height % patch or width % patch:
        raise ValueError(f"patches of {patch} do not divide images of {height} x {width}")
    rows, columns = height // patch, width // patch
    split = images.reshape(*lead, rows, patch, columns, patch, channels)
    return split.swapaxes(-4, -3).reshape(*lead, rows * columns, patch * patch * channels)


def unpatchify(patches: Array, patch: int, rows: int, columns: int) -> Array:
    """The inverse of `patchify` for a grid of `rows` x `columns`."""
    *lead, _, size = patches.shape
    channels = size // (patch * patch)
    split = patches.reshape(*lead, rows, columns, patch, patch, channels).swapaxes(-4, -3)
    return split.reshape(*lead, rows * patch, columns * patch, channels)


def tiles(images: Array, rows: int, columns: int) -> Array:
    """(..., H, W, C) -> (..., rows * columns, H // rows, W // columns, C), row by row.

    Pixels that the grid leaves over at the bottom and the right are dropped.
    """
    *lead, height, width, channels = images.shape
    h, w = height // rows, width // columns
    cut = images[..., : rows * h, : columns * w, :]
    split = cut.reshape(*lead, rows, h, columns, w, channels).swapaxes(-4, -3)
    return split.reshape(*lead, rows * columns, h, w, channels)
