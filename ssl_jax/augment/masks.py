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
CONTEXT_TRIES = 20  # of I-JEPA, before the context may overlap one more target; of V-JEPA


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


def random_patches(keys: Array, count: int, ratio: float) -> tuple[Array, Array, Array]:
    """Mask a share of `count` patches of each image with keys (B,); see `random_masking`."""
    return random_masking(jax.vmap(lambda k: jax.random.uniform(k, (count,)))(keys), ratio)


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


def random_cells(keys: Array, cells: int, ratio: float) -> Array:
    """Mask a share of `cells` x `cells` cells of each image with keys (B,); see `simmim_mask`."""
    order = jax.vmap(lambda k: jax.random.permutation(k, cells * cells))(keys)
    return simmim_mask(order, ratio, cells, cells, scale=1)


def resize_mask(mask: Array, side: int) -> Array:
    """Resize masks (B, n, n) to `side`, a multiple or a divisor of n: (B, side, side) float32.

    A coarser position holds the share that is hidden.
    """
    own, mask = mask.shape[1], mask.astype(jnp.float32)
    if side >= own:
        return mask.repeat(side // own, axis=1).repeat(side // own, axis=2)
    part = own // side
    return mask.reshape(-1, side, part, side, part).mean((2, 4))


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
    target = jnp.asarray(target, jnp.float32)

    def add(_: int, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        mask, key, wanting = state
        key, own = jax.random.split(key)
        draws = jax.vmap(lambda k: jax.random.uniform(k, (4,)))(jax.random.split(own, _TRIES))
        cap = jnp.minimum(target - mask.sum(), max_patches)
        larger = add_block(mask, draws, cap, min_patches, aspect)
        wanting = wanting & (larger != mask).any()
        mask = jnp.where(wanting, larger, mask)
        return mask, key, wanting & (mask.sum() < target)

    start = (jnp.zeros(grid, bool), key, target > 0)
    return jax.lax.fori_loop(0, _BLOCKS, add, start)[0]


def add_block(
    mask: Array, draws: Array, cap: Array, min_patches: int, aspect: tuple[float, float]
) -> Array:
    """Add the first rectangle that fits to a mask (H, W) bool; the same mask if none does.

    Args:
      draws: (tries, 4) in [0, 1): area, logarithm of the aspect ratio, top and left of each try.
      cap: most patches to add.
      min_patches, aspect: see `block_mask`.
    """
    height, width = mask.shape
    low, high = (math.log(limit) for limit in aspect)
    area, log, down, across = draws.T
    area = min_patches + (cap - min_patches) * area
    ratio = jnp.exp(low + (high - low) * log)
    h = jnp.round(jnp.sqrt(area * ratio)).astype(jnp.int32)  # half to even, as in Python
    w = jnp.round(jnp.sqrt(area / ratio)).astype(jnp.int32)
    top = jnp.floor(down * (height - h + 1)).astype(jnp.int32)
    left = jnp.floor(across * (width - w + 1)).astype(jnp.int32)
    rows = _within(top, top + h, height)
    columns = _within(left, left + w, width)
    # The tries are independent and the first that fits is used, so count the new patches of all at
    # once; of the blocks themselves only that one is made.
    added = ((rows.astype(jnp.float32) @ ~mask) * columns).sum(1)
    fits = (h < height) & (w < width) & (added > 0) & (added <= cap)
    first = jnp.argmax(fits)
    return mask | (rows[first, :, None] & columns[first] & fits.any())


def _within(start: Array, stop: Array, length: int) -> Array:
    """Return masks (n, length) bool of the positions from `start` (n,) to before `stop`."""
    at = jnp.arange(length)
    return (at >= start[:, None]) & (at < stop[:, None])


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


def stratified_targets(
    places: Array, draws: Array, patches: int, share: float, ratios: tuple[float, float]
) -> Array:
    """Return how many patches DINOv2 hides in each of C crops (`collate.py`), int32.

    n = int(share * C) crops have a mask. The range of `ratios` is cut into n equal bins; the crop
    at place i < n hides a number of patches drawn from bin i, the others none.

    Args:
      places: (..., C) int, a random order of 0 to C - 1.
      draws: (..., C), uniform in [0, 1).
      patches: number of patches of a crop, N.
    """
    edges = _edges(places.shape[-1], share, ratios)
    bins = jnp.minimum(places, len(edges) - 2)
    low, high = jnp.asarray(edges)[bins], jnp.asarray(edges)[bins + 1]
    targets = (patches * (low + (high - low) * draws)).astype(jnp.int32)
    return jnp.where(places < len(edges) - 1, targets, 0)


def most_hidden(crops: int, patches: int, share: float, ratios: tuple[float, float]) -> int:
    """Return the largest number of patches that `stratified_targets` can hide in all crops."""
    return sum(int(patches * edge) for edge in _edges(crops, share, ratios)[1:])


def _edges(crops: int, share: float, ratios: tuple[float, float]) -> np.ndarray:
    """Return the edges of the bins, float32."""
    return np.linspace(*ratios, int(crops * share) + 1, dtype=np.float32)


def block_size(
    draw: Array,
    grid: tuple[int, int],
    scale: tuple[float, float],
    aspect: tuple[float, float],
    border: bool = True,
) -> tuple[Array, Array]:
    """Return height and width in patches, int32, of I-JEPA's blocks from a uniform draw in [0, 1).

    One draw sets both the area and the aspect ratio, as in the released `multiblock.py`. I-JEPA has
    one size per batch: draw it from the step's key, not from an example's.

    Args:
      draw: the uniform draw; may have any shape.
      grid: patches (down, across).
      scale: range of the area, as a share of the grid.
      aspect: range of height over width.
      border: whether a block may be as high or as wide as the grid.
    """
    area = jnp.floor(grid[0] * grid[1] * (scale[0] + draw * (scale[1] - scale[0])))
    ratio = aspect[0] + draw * (aspect[1] - aspect[0])
    sides = (jnp.round(jnp.sqrt(x)).astype(jnp.int32) for x in (area * ratio, area / ratio))
    height, width = (
        jnp.clip(side, 1, most if border else most - 1)
        for side, most in zip(sides, grid, strict=True)
    )
    return height, width


def block_areas(
    grid: tuple[int, int],
    scale: tuple[float, float],
    aspect: tuple[float, float],
    border: bool = True,
) -> tuple[int, int]:
    """Return the smallest and the largest number of patches of the blocks of `block_size`, as
    Python numbers, also while a program is traced.
    """
    with jax.ensure_compile_time_eval():
        height, width = block_size(jnp.linspace(0, 1, 10_001), grid, scale, aspect, border)
        return int((height * width).min()), int((height * width).max())


def multi_block(
    key: Array,
    grid: tuple[int, int],
    target: tuple[Array | int, Array | int],
    context: tuple[Array | int, Array | int],
    targets: int = 4,
    min_keep: int = 10,
    border: bool = True,
) -> tuple[Array, Array]:
    """Draw I-JEPA's context and target masks of one image (Assran et al. 2023, `multiblock.py`).

    The number of draws is fixed. The released code repeats them until a block is large enough, for
    ever if its target blocks have at most `min_keep` patches.

    Args:
      key: random key of one image.
      grid: patches (down, across).
      target, context: height and width of the blocks in patches; fixed or from `block_size`.
      targets: number of target blocks.
      min_keep: the context must have more patches than this; see `context_mask`.
      border: whether blocks may reach the last row and column, which the released code excludes.

    Returns:
      visible (H, W) bool, the context block without the target blocks; hidden (targets, H, W) bool.
    """
    target_key, context_key = jax.random.split(key)
    hidden = block_at(_places(target_key, grid, target, targets, border), target, grid)
    places = _places(context_key, grid, context, CONTEXT_TRIES * (targets + 1), border)
    return context_mask(block_at(places, context, grid), hidden, min_keep), hidden


def tube_mask(
    key: Array, grid: tuple[int, int], size: tuple[Array | int, Array | int], blocks: int
) -> Array:
    """Draw V-JEPA's mask of one clip (Bardes et al. 2024, `multiblock3d.py`): (H, W) bool, true
    where hidden, the same in every frame.

    It is the union of `blocks` blocks of one size, at places uniform over all that fit. The
    released code draws again while nothing stays visible; here the first of 20 such unions that
    leaves a patch is taken, or the first one if none does.
    """
    places = _places(key, grid, size, CONTEXT_TRIES * blocks, border=True)
    unions = block_at(places, size, grid).reshape(CONTEXT_TRIES, blocks, *grid).any(1)
    return unions[jnp.argmin(unions.all((1, 2)))]


def tube_ids(
    key: Array,
    grid: tuple[int, int],
    size: tuple[Array | int, Array | int],
    blocks: int,
    lengths: tuple[int, int],
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Draw V-JEPA's mask of one clip (`tube_mask`) and list its visible and its hidden patches.

    Args:
      lengths: of the two lists; of more patches, random ones are listed.

    Returns:
      For the visible and for the hidden patches, ids and valid, see `mask_ids`.
    """
    places, first, second = jax.random.split(key, 3)
    hidden = tube_mask(places, grid, size, blocks)
    return mask_ids(~hidden, lengths[0], first), mask_ids(hidden, lengths[1], second)


def context_mask(blocks: Array, hidden: Array, min_keep: int) -> Array:
    """Return the first context block that has more than `min_keep` patches outside the targets.

    Args:
      blocks: (20 (targets + 1), H, W) bool, candidates. The first 20 leave all targets out, the
        next 20 may overlap the last target, and so on; the last 20 may overlap all.
      hidden: (targets, H, W) bool, the target blocks.
      min_keep: if no candidate has more patches, the first one is taken.

    Returns:
      (H, W) bool, the block without the targets that were left out.
    """
    count = len(hidden)
    excluded = jnp.stack([hidden[: count - k].any(0) for k in range(count + 1)])
    visible = blocks & ~excluded.repeat(CONTEXT_TRIES, axis=0)
    return visible[jnp.argmax(visible.sum((1, 2)) > min_keep)]


def block_at(places: Array, size: tuple[Array | int, ...], grid: tuple[int, int]) -> Array:
    """Return masks (n, H, W) bool of blocks with their top left corners at `places` (n, 2)."""
    top, left = places[:, 0], places[:, 1]
    box = erasing.Box(top, top + size[0], left, left + size[1])
    return jax.vmap(lambda b: erasing.inside(b, *grid))(box)


def mask_ids(mask: Array, length: int, key: Array | None = None) -> tuple[Array, Array]:
    """List the true positions of a mask with a fixed length, for `take`.

    Args:
      mask: (H, W) bool, or with `key=None` (..., H, W).
      length: length of the list.
      key: if there are more positions, a random choice of them is listed, in any order. By default
        the list is in order, row by row, and the later positions are dropped, as in I-JEPA, whose
        release cuts all lists of a batch to the shortest.

    Returns:
      ids (..., length) int32; valid (..., length) bool: false where the mask has fewer positions,
      and the id there is 0.
    """
    flat = mask.reshape(*mask.shape[:-2], -1)
    rank = jnp.zeros(flat.shape) if key is None else jax.random.uniform(key, flat.shape)
    ids = jnp.argsort(jnp.where(flat, rank, 2.0), axis=-1, stable=True)
    valid = jnp.arange(length) < flat.sum(-1, keepdims=True)
    return jnp.where(valid, ids[..., :length].astype(jnp.int32), 0), valid


def _places(
    key: Array, grid: tuple[int, int], size: tuple[Array | int, ...], count: int, border: bool
) -> Array:
    """Draw top left corners (count, 2) of blocks of one size, uniform over all that fit."""
    room = [jnp.asarray(g - s + border, jnp.int32) for g, s in zip(grid, size, strict=True)]
    return jax.random.randint(key, (count, 2), 0, jnp.stack(room), jnp.int32)
