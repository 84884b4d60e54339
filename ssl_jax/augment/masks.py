"""Masks: which patches a masked method hides."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment import erasing

Array = jax.Array

_TRIES = 10  # draws per block
# Upper limit of blocks per mask: of 50,000 masks none had more than 12 (BEiT) or 19 (DINOv2). A
# loop until every image of the batch has enough would synchronise all devices after each block.
_BLOCKS = 32


def random_masking(noise: Array, ratio: float) -> tuple[Array, Array, Array]:
    """Mask patches at random as MAE does (He et al. 2021, `models_mae.py`).

    Args:
      noise: (..., L), one random value per patch; the patches of least noise stay visible.
      ratio: share of the patches to hide; int(L * (1 - ratio)) stay visible.

    Returns:
      ids_keep (..., K) int32, the visible patches by rising noise; mask (..., L) float32, 1 where
      hidden; ids_restore (..., L) int32, the position of each patch in the order by noise.
    """
    length = noise.shape[-1]
    count = int(length * (1 - ratio))
    order = jnp.argsort(noise, axis=-1).astype(jnp.int32)
    ids_restore = jnp.argsort(order, axis=-1).astype(jnp.int32)
    mask = (ids_restore >= count).astype(jnp.float32)
    return order[..., :count], mask, ids_restore


def take(tokens: Array, ids: Array) -> Array:
    """Take the tokens (..., L, D) at positions (..., K): (..., K, D)."""
    return jnp.take_along_axis(tokens, ids[..., None], axis=-2)


def simmim_mask(order: Array, ratio: float, rows: int, columns: int, scale: int) -> Array:
    """Mask large cells as SimMIM does (Xie et al. 2021, `data_simmim.py`); 1 where hidden.

    Args:
      order: (..., rows * columns) int32, a permutation; its first ceil(L * ratio) are hidden.
      ratio: share of the cells to hide.
      scale: patches along a side of a cell (32 px cells of 16 px patches: 2).

    Returns:
      (..., rows * scale, columns * scale) float32.
    """
    hidden = math.ceil(rows * columns * ratio)
    cells = jnp.argsort(order, axis=-1) < hidden
    grid = cells.reshape(*order.shape[:-1], rows, columns).astype(jnp.float32)
    return grid.repeat(scale, axis=-2).repeat(scale, axis=-1)


def block_mask(
    key: Array,
    grid: tuple[int, int],
    target: Array | float,
    min_patches: int = 16,
    max_patches: float = math.inf,
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> Array:
    """Mask blocks as BEiT does (Bao et al. 2021, algorithm 1, `masking_generator.py`): (H, W) bool.

    Rectangles are added until `target` patches are hidden. Each may add at most the number that is
    missing and has ten tries to fit; if all ten fail, the mask stays short of the target (14 x 14
    with a target of 75: 74.47 on average). DINOv2: min_patches 4, max_patches H * W / 2. The
    distribution is that of the authors' generator with its quirks: no block is as high or as wide
    as the grid, and the area is drawn between `min_patches` and the missing number even if that is
    less.

    Args:
      key: random key of one image.
      grid: patches (down, across).
      target: patches to hide; may be traced, and need not be an integer (iBOT).
      min_patches, max_patches: limits of one block.
      aspect: range of height over width, log-uniform.
    """
    height, width = grid
    y, x = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    target = jnp.asarray(target, jnp.float32)

    def propose(key: Array, cap: Array) -> tuple[Array, Array]:
        """Draw a rectangle (H, W) bool; also return true if it is small enough for the grid."""
        area, log, down, across = jax.random.uniform(key, (4,))
        area = min_patches + (cap - min_patches) * area
        ratio = jnp.exp(math.log(aspect[0]) + (math.log(aspect[1]) - math.log(aspect[0])) * log)
        h = jnp.round(jnp.sqrt(area * ratio)).astype(jnp.int32)  # half to even, as in Python
        w = jnp.round(jnp.sqrt(area / ratio)).astype(jnp.int32)
        top = jnp.floor(down * (height - h + 1)).astype(jnp.int32)
        left = jnp.floor(across * (width - w + 1)).astype(jnp.int32)
        block = (y >= top) & (y < top + h) & (x >= left) & (x < left + w)
        return block, (h < height) & (w < width)

    def add(_: int, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        mask, key, wanting = state
        key, draws = jax.random.split(key)
        cap = jnp.minimum(target - mask.sum(), max_patches)
        # The tries are independent and the first that fits is used, so compute all at once.
        blocks, small = jax.vmap(propose, (0, None))(jax.random.split(draws, _TRIES), cap)
        added = (blocks & ~mask).sum((1, 2))
        fits = small & (added > 0) & (added <= cap)
        wanting = wanting & fits.any()
        mask = mask | (blocks[jnp.argmax(fits)] & wanting)
        return mask, key, wanting & (mask.sum() < target)

    start = (jnp.zeros(grid, bool), key, target > 0)
    return jax.lax.fori_loop(0, _BLOCKS, add, start)[0]


def ibot_mask(
    key: Array,
    grid: tuple[int, int],
    ratios: tuple[float, ...] = (0.0, 0.3),
    spreads: tuple[float, ...] = (0.0, 0.2),
    blocks: bool = True,
) -> Array:
    """Mask a random share of the patches as iBOT does (Zhou et al. 2021, `loader.py`): (H, W) bool.

    The share is one of `ratios`, chosen uniformly, plus a uniform draw within its spread: by
    default half of the views have no mask. With `blocks` the mask is block-wise, of at least
    (min(H, W) // 3)^2 patches per block; otherwise it is int(share * H * W) patches anywhere.
    """
    share_key, mask_key = jax.random.split(key)
    which, place = jax.random.uniform(share_key, (2,))
    which = jnp.minimum((which * len(ratios)).astype(jnp.int32), len(ratios) - 1)
    ratio, spread = (jnp.asarray(np.array(v, np.float32))[which] for v in (ratios, spreads))
    target = (ratio + spread * (2.0 * place - 1.0)) * (grid[0] * grid[1])
    if blocks:
        return block_mask(mask_key, grid, target, (min(grid) // 3) ** 2)
    rank = jnp.argsort(jax.random.uniform(mask_key, (grid[0] * grid[1],)))
    return (rank < jnp.floor(target)).reshape(grid)


def block_size(
    draw: Array, grid: tuple[int, int], scale: tuple[float, float], aspect: tuple[float, float]
) -> tuple[Array, Array]:
    """Return height and width in patches, int32, of I-JEPA's blocks from a uniform draw in [0, 1).

    One draw sets both the area and the aspect ratio, as in the released `multiblock.py`. I-JEPA has
    one size per batch: draw it from the step's key, not from an example's.
    """
    area = jnp.floor(grid[0] * grid[1] * (scale[0] + draw * (scale[1] - scale[0])))
    ratio = aspect[0] + draw * (aspect[1] - aspect[0])
    h = jnp.round(jnp.sqrt(area * ratio)).astype(jnp.int32)
    w = jnp.round(jnp.sqrt(area / ratio)).astype(jnp.int32)
    return jnp.minimum(h, grid[0] - 1), jnp.minimum(w, grid[1] - 1)


def multi_block(
    key: Array,
    grid: tuple[int, int],
    target: tuple[Array | int, Array | int],
    context: tuple[Array | int, Array | int],
    targets: int = 4,
    min_keep: int = 10,
) -> tuple[Array, Array]:
    """Draw I-JEPA's context and target masks of one image (Assran et al. 2023, `multiblock.py`).

    Args:
      key: random key of one image.
      grid: patches (down, across).
      target, context: height and width of the blocks in patches, smaller than the grid; fixed or
        from `block_size`.
      targets: number of target blocks.
      min_keep: the context must have more patches than this: 20 positions are tried, then 20 more
        that may overlap the last target block, and so on.

    Returns:
      visible (H, W) bool, the context block without the target blocks; hidden (targets, H, W) bool.
      As in the released code no block reaches the last row or column.
    """
    target_key, context_key = jax.random.split(key)
    hidden = _blocks(target_key, grid, target, targets)
    tries = 20 * (targets + 1)
    places = _blocks(context_key, grid, context, tries).reshape(targets + 1, 20, *grid)
    # Row k: all targets but the last k are excluded.
    excluded = jnp.stack([hidden[: targets - k].any(0) for k in range(targets + 1)])
    visible = (places & ~excluded[:, None]).reshape(tries, *grid)
    enough = visible.sum((1, 2)) > min_keep
    return visible[jnp.argmax(enough)], hidden


def mask_ids(mask: Array, length: int) -> tuple[Array, Array]:
    """List the true positions of a mask with a fixed length, for `take`.

    Args:
      mask: (..., H, W) bool.
      length: length of the list; later positions (row by row) are dropped, as I-JEPA cuts all lists
        of a batch to the shortest.

    Returns:
      ids (..., length) int32, rising; valid (..., length) bool: false where the mask has fewer
      positions, and the id there is 0.
    """
    flat = mask.reshape(*mask.shape[:-2], -1)
    ids = jnp.argsort(~flat, axis=-1, stable=True)[..., :length].astype(jnp.int32)
    valid = jnp.arange(length) < flat.sum(-1, keepdims=True)
    return jnp.where(valid, ids, 0), valid


def _blocks(key: Array, grid: tuple[int, int], size: tuple[Array | int, ...], n: int) -> Array:
    """Draw n rectangles of one size, (n, H, W) bool, uniform over all positions that leave the last
    row and column free.
    """
    room = jnp.stack([jnp.asarray(g - s, jnp.int32) for g, s in zip(grid, size, strict=True)])
    at = jax.random.randint(key, (n, 2), 0, room, jnp.int32)
    box = erasing.Box(at[:, 0], at[:, 0] + size[0], at[:, 1], at[:, 1] + size[1])
    return jax.vmap(lambda b: erasing.inside(b, *grid))(box)
