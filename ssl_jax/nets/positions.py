"""Positions of vision transformers: fixed sin-cos tables, resizing to another grid, and trained
relative biases.
"""

import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import Array

Grid = tuple[int, int]
ClipGrid = tuple[int, int, int]  # frames (of tubelets), rows, columns
Order = Literal["mae", "mocov3"]  # which axis comes first: the column, the row


def sincos(dim: int, grid: Grid, order: Order = "mae", cls_token: bool = False) -> np.ndarray:
    """Build the fixed 2-D sine-cosine table (h * w, dim), float64; `cls_token` prepends a zero row.

    Each axis has dim / 2 channels, sin(t w_k) then cos(t w_k) with w_k = 10000^(-k / (dim / 4)).
    The first half holds the column in "mae" order (He et al. 2021, arXiv:2111.06377, official
    `pos_embed.py`) and the row in "mocov3" order (Chen et al. 2021, arXiv:2104.02057, official
    `vits.py`).

    Raises:
      UserError: 4 does not divide `dim`.
    """
    if dim % 4:
        raise UserError(f"sin-cos positions: expected a width divisible by 4, got {dim}")
    row, column = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in grid), indexing="ij")
    axes = (column, row) if order == "mae" else (row, column)
    table = np.concatenate([_waves(axis, dim // 2) for axis in axes], axis=1)
    return np.concatenate([np.zeros((1, dim)), table]) if cls_token else table


def sincos_clip(dim: int, grid: ClipGrid) -> np.ndarray:
    """Build the fixed 3-D sine-cosine table (t * h * w, dim), float64.

    Frame, row and column have 2 ceil(dim / 6) channels each, in this order, and the last channels
    are cut to `dim` (V-JEPA, Bardes et al. 2024, arXiv:2404.08471, official `pos_embs.py` with
    `uniform_power`).
    """
    axes = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in grid), indexing="ij")
    channels = 2 * math.ceil(dim / 6)
    return np.concatenate([_waves(axis, channels) for axis in axes], axis=1)[:, :dim]


def fixed_table(dim: int, grid: Grid | ClipGrid) -> np.ndarray:
    """Build the fixed table of the patches of an image, or of the tubelets of a clip.

    Raises:
      UserError: see `sincos`.
    """
    return sincos_clip(dim, grid) if len(grid) == 3 else sincos(dim, grid)


def _waves(axis: np.ndarray, channels: int) -> np.ndarray:
    """Return sin(t w_k), then cos(t w_k), (N, channels), for the positions t of one axis."""
    frequency = 10000.0 ** (-np.arange(channels // 2) / (channels // 2))
    angles = np.outer(axis, frequency)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def resize_grid(
    table: Array, old: Grid, new: Grid, offset: float = 0.0, antialias: bool = False
) -> Array:
    """Resize a position table bicubically to another grid, (1, h * w, D) -> (1, h' * w', D).

    As in PyTorch: a = -0.75 without antialiasing, a = -0.5 with it.

    Args:
      table: positions of the patches, row-major.
      old, new: grids.
      offset: added to the new sides when the scale is computed; DINO (arXiv:2104.14294) uses 0.1,
        so that sample points lie slightly denser than the ratio of the sides. 0 with `antialias`.
      antialias: widen the filter where the grid gets smaller.
    """
    if old == new:
        return table
    grid = jnp.reshape(table, (*old, table.shape[-1]))
    if antialias:
        grid = jax.image.resize(grid, (*new, table.shape[-1]), "bicubic", antialias=True)
        return jnp.reshape(grid, (1, math.prod(new), table.shape[-1]))
    rows, columns = (
        jnp.asarray(bicubic(n, m, (m + offset) / n), table.dtype)
        for n, m in zip(old, new, strict=True)
    )
    grid = jnp.einsum("hr,wc,rcd->hwd", rows, columns, grid, precision=jax.lax.Precision.HIGHEST)
    return jnp.reshape(grid, (1, math.prod(new), table.shape[-1]))


@functools.cache
def bicubic(n: int, m: int, scale: float) -> np.ndarray:
    """Return weights (m, n) of cubic interpolation (Keys 1981, a = -0.75), borders repeated."""
    a = -0.75
    point = (np.arange(m) + 0.5) / scale - 0.5
    left = np.floor(point).astype(int)
    weights = np.zeros((m, n))
    for tap in range(-1, 3):
        x = np.abs(point - (left + tap))
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = a * (((x - 5) * x + 8) * x - 4)
        np.add.at(
            weights, (np.arange(m), np.clip(left + tap, 0, n - 1)), np.where(x <= 1, near, far)
        )
    return weights


class RelativePositions(nnx.Module):
    """A trained attention bias for each head and each offset between two patches (Swin's, BEiT's).

    With a class token there are three more: from it, to it, and of it to itself. With `depth` there
    is one table for each of as many blocks.
    """

    def __init__(self, grid: Grid, heads: int, cls_token: bool, depth: int | None = None):
        self.grid, self.cls_token = grid, cls_token
        offsets = (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3 * cls_token
        blocks = () if depth is None else (depth,)
        self.table = nnx.Param(jnp.zeros((*blocks, offsets, heads), jnp.float32))

    def __call__(self, grid: Grid) -> Array:
        """Return the bias (1, heads, T, T) of a grid of patches, (depth, 1, heads, T, T) of several
        tables; resize the tables if the grid differs.
        """
        table = self.table[...]
        old, new = ((2 * rows - 1, 2 * columns - 1) for rows, columns in (self.grid, grid))
        index = relative_index(grid, self.cls_token)

        def bias(table: Array) -> Array:
            patches, others = jnp.split(table, [old[0] * old[1]])
            table = jnp.concatenate([resize_grid(patches[None], old, new)[0], others])
            return jnp.moveaxis(table[index], -1, 0)[None]

        return bias(table) if table.ndim == 2 else jax.vmap(bias)(table)


def relative_index(grid: Grid, cls_token: bool = False) -> np.ndarray:
    """Index (T, T) int32 of the table's row with the bias from token i (rows) to token j (columns).

    The row of an offset (down, right) is (down + h - 1)(2 w - 1) + right + w - 1, as in Swin; then
    class to patch, patch to class, class to class, as in BEiT.
    """
    h, w = grid
    at = np.stack(np.divmod(np.arange(h * w), w), -1)
    down, right = np.moveaxis(at[:, None] - at[None], -1, 0)
    index = (down + h - 1) * (2 * w - 1) + right + w - 1
    if cls_token:
        count = (2 * h - 1) * (2 * w - 1)
        index = np.pad(index, ((1, 0), (1, 0)))
        index[0], index[:, 0], index[0, 0] = count, count + 1, count + 2
    return index.astype(np.int32)
