"""Nearest neighbours by cosine: the ranking that kNN, retrieval, zero-shot classification, the
report and the neighbours of embeddings share.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, Sharding, SingleDeviceSharding

from ssl_jax.core import sharding
from ssl_jax.core.placement import gather, place
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array

TEST_ROWS = 2**18  # test rows that are on the devices while the training rows pass over them
TRAIN_ROWS = 2**15  # training rows that are on the devices at once
TILE_ELEMENTS = 2**25  # similarities that a device holds at once: 128 MiB in float32
CPU_TILE_ELEMENTS = 2**21  # on a CPU, for its caches
BLOCK = 64  # adjacent training rows of which only the nearest is compared at first

_unit = jax.jit(functools.partial(l2_normalize, floor="norm"))


def nearest(
    train: np.ndarray, test: np.ndarray, k: int, mesh: Mesh | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosines (M, k) float32 of the k nearest training rows, greatest first, and their
    row numbers (M, k) int32; ties go to the earlier rows.

    The training rows pass over the devices in tiles, once per `TEST_ROWS` test rows, which stay on
    the devices. Both may lie in files (`np.memmap`) and be larger than the memory.

    Args:
      train: (N, D) features of any scale, N >= k.
      test: (M, D).
      k: neighbours.
      mesh: test rows are split over its devices.
    """
    check_shapes("nearest: train (N, D), test (M, D)", train, test)
    tiles = [(c[:count], i[:count]) for c, i, count in nearest_tiles(train, test, k, mesh)]
    cosines, index = zip(*tiles, strict=True)
    return np.concatenate(cosines), np.concatenate(index)


def nearest_tiles(
    train: np.ndarray, test: np.ndarray, k: int, mesh: Mesh | None
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Yield the results of `nearest` in tiles of equal shape, with their number of real rows; the
    last tile is padded.
    """
    group = _even(len(test), TEST_ROWS, 1)
    for start in range(0, len(test), group):
        rows = test[start : start + group]
        if mesh is None:  # one device of this process, also where a mesh of several is set
            own = jax.local_devices()[0]
            with jax.set_mesh(Mesh(np.array([own]), ("data",))):
                device = SingleDeviceSharding(own)
                tiles = list(_tiles(train, rows, k, device, device, 1))
        else:
            split, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
            tiles = list(_tiles(train, rows, k, split, whole, mesh.size))
        for count, results in tiles:
            cosines, index = jax.device_get(results) if mesh is None else gather(results)
            yield cosines, index, count


def _tiles(
    train: np.ndarray, test: np.ndarray, k: int, apart: Sharding, whole: Sharding, devices: int
) -> Iterator[tuple[int, tuple[Array, Array]]]:
    """Yield the real rows of each tile of test rows, and their cosines and indices."""
    elements = CPU_TILE_ELEMENTS if jax.default_backend() == "cpu" else TILE_ELEMENTS
    columns = _even(len(train), TRAIN_ROWS, BLOCK)
    size = _even(len(test), max(1, elements // columns) * devices, devices)
    starts = range(0, len(test), size)
    tiles = [_unit(place(_padded(test[start : start + size], size), apart)) for start in starts]
    nothing = np.full((size, k), -np.inf, np.float32), np.zeros((size, k), np.int32)
    best = [place(nothing, apart) for _ in tiles]
    for start in range(0, len(train), columns):
        rows = train[start : start + columns]
        unit_rows = _unit(place(_padded(rows, columns), whole))
        best = [
            _nearer(tile, unit_rows, np.int32(start), np.int32(len(rows)), *nearest_rows)
            for tile, nearest_rows in zip(tiles, best, strict=True)
        ]
    for start, nearest_rows in zip(starts, best, strict=True):
        yield min(size, len(test) - start), nearest_rows


def _even(count: int, most: int, multiple: int) -> int:
    """Return the rows per tile if `count` rows are cut into equal tiles of about `most` or less."""
    size = -(-count // -(-count // most))
    return size + -size % multiple


def _padded(rows: np.ndarray, size: int) -> np.ndarray:
    out = np.zeros((size, rows.shape[1]), np.float32)
    out[: len(rows)] = rows
    return out


@functools.partial(jax.jit, donate_argnames=("nearest", "index"))
def _nearer(
    test: Array, train: Array, start: Array, count: Array, nearest: Array, index: Array
) -> tuple[Array, Array]:
    """Merge the k nearest so far with `count` more rows; return the k greatest cosines (T, k) and
    their rows.
    """
    similarity = jnp.matmul(test, train.T, precision="highest")
    similarity = jnp.where(jnp.arange(len(train)) < count, similarity, -jnp.inf)
    k = nearest.shape[1]
    cosines, rows = _top(similarity, min(k, len(train)))
    # Earlier results come first, so that ties go to the earlier rows.
    both = jnp.concatenate([nearest, cosines], 1)
    where = jnp.concatenate([index, rows.astype(jnp.int32) + start], 1)
    nearest, order = jax.lax.top_k(both, k)
    return nearest, jnp.take_along_axis(where, order, 1)


def _top(x: Array, k: int) -> tuple[Array, Array]:
    """`jax.lax.top_k` of (T, N), BLOCK a divisor of N, in a fraction of its time.

    The k greatest are in the k blocks of the greatest maxima: for a value in another block, each of
    these holds a greater value, or an equal one before it.
    """
    blocks = x.reshape(len(x), -1, BLOCK)
    _, where = jax.lax.top_k(blocks.max(-1), min(k, blocks.shape[1]))
    where = jnp.sort(where, 1)  # equal values stay in order
    candidates = jnp.take_along_axis(blocks, where[:, :, None], 1).reshape(len(x), -1)
    values, at = jax.lax.top_k(candidates, k)
    return values, jnp.take_along_axis(where, at // BLOCK, 1) * BLOCK + at % BLOCK
