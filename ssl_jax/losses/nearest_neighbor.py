"""The nearest neighbour in a support set: the positive of NNCLR (2104.14548)."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array

TILE = 8192  # rows of the support set compared at a time


@any_axes(1)
def nearest_neighbor(x: Array, support: Array) -> Array:
    """Return the row of `support` with the highest cosine to each row of x, (B, d).

    It is returned as it is stored, and no gradient flows. NNCLR is `infonce` from it to the other
    view's prediction. At most (B, TILE) similarities are held. On a mesh of several devices, the
    one in context, every device compares all of x with its own part of the support set, which
    stays in place, if they divide B and K.

    Args:
      x: (B, d).
      support: (K, d), K > 0.
    """
    check_shapes("nearest_neighbor: x (B, d), support (K, d)", x, support)
    support = jax.lax.stop_gradient(support)
    x, rows = l2_normalize(jax.lax.stop_gradient(x)), l2_normalize(support)
    mesh = jax.sharding.get_abstract_mesh()
    # Inside a `shard_map` the axes are the caller's.
    devices = 1 if AxisType.Manual in mesh.axis_types else max(mesh.size, 1)
    if devices > 1 and x.shape[0] % devices == 0 and rows.shape[0] % devices == 0:
        return support[_nearest_on(mesh, x, rows)]
    return support[nearest(x, rows)]


def _nearest_on(mesh: Any, queries: Array, keys: Array) -> Array:
    """Return `nearest` of queries and keys that are split by rows over a mesh."""
    axes, devices = mesh.axis_names, mesh.size

    def device(queries: Array, keys: Array) -> Array:
        every = jax.lax.all_gather(queries, axes, tiled=True)
        score, index = _scan(every, keys, max(TILE // devices, 1))
        index += jax.lax.axis_index(axes) * keys.shape[0]
        # For its own queries, a device gets what every device has found; the first of equals wins.
        scores, indices = (
            jax.lax.all_to_all(x.reshape(devices, -1), axes, 0, 0) for x in (score, index)
        )
        best = jnp.argmax(scores, axis=0)
        return jnp.take_along_axis(indices, best[None], axis=0)[0]

    return jax.shard_map(device, in_specs=P(axes), out_specs=P(axes), check_vma=False)(
        queries, keys
    )


@any_axes(1)
def nearest(queries: Array, keys: Array, *, others: bool = False) -> Array:
    """Return the index (B,) of the key (K, d) with the largest inner product with each query
    (B, d). With `others`, key i is left out for query i.
    """
    check_shapes("nearest: queries (B, d), keys (K, d)", queries, keys)
    return _scan(*jax.lax.stop_gradient((queries, keys)), TILE, others)[1]


def _scan(queries: Array, keys: Array, tile_rows: int, others: bool = False) -> tuple[Array, Array]:
    """Return the largest inner product (B,) and its key (B,), comparing `tile_rows` at a time."""
    size = min(tile_rows, keys.shape[0])
    # The last tile starts earlier where tiles do not fill it; rows that come twice change nothing.
    starts = jnp.minimum(jnp.arange(0, keys.shape[0], size), keys.shape[0] - size)
    rows = jnp.arange(queries.shape[0], dtype=starts.dtype)

    def step(best: tuple[Array, Array], start: Array) -> tuple[tuple[Array, Array], None]:
        tile = jax.lax.dynamic_slice_in_dim(keys, start, size)
        scores = jnp.matmul(queries, tile.T, precision="highest")
        if others:
            own = rows[:, None] == start + jnp.arange(size)
            scores = jnp.where(own, -jnp.inf, scores)
        index, score = start + jnp.argmax(scores, axis=1), jnp.max(scores, axis=1)
        closer = score > best[0]
        return (jnp.where(closer, score, best[0]), jnp.where(closer, index, best[1])), None

    none = jnp.full(rows.shape, -jnp.inf, queries.dtype), jnp.zeros_like(rows)
    return jax.lax.scan(step, none, starts)[0]
