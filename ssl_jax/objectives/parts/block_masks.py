"""Masks of blocks of patches with a fixed share, as BEiT draws them, for methods that follow it."""

import math

import jax

from ssl_jax.augment.masks import block_mask
from ssl_jax.core.errors import UserError

Array = jax.Array
Grid = tuple[int, int]


def hidden_patches(grid: Grid, ratio: float, min_patches: int) -> int:
    """Return the number of patches to hide; `block_masks` may stay a little below.

    Raises:
      UserError: one block has more patches.
    """
    hidden = round(ratio * math.prod(grid))
    if hidden < min_patches:
        raise UserError(
            f"objective.min_patches: {min_patches} patches per block are more than the {hidden} to "
            f"hide; use at most {hidden}, or smaller patches"
        )
    return hidden


def block_masks(keys: Array, grid: Grid, ratio: float, min_patches: int) -> Array:
    """Draw masks (B, rows, columns), bool, of the patches to hide with keys (B,)."""
    hidden = hidden_patches(grid, ratio, min_patches)
    return jax.vmap(lambda k: block_mask(k, grid, hidden, min_patches))(keys)
