"""Sums over a matrix of inner products whose rows and columns lie on different devices.

Every device keeps its rows of x; blocks of y go from device to device, around all axes of the mesh
in context, until each has visited all of them (the ring of Inf-CL, 2410.17243). A block's column
sums and its gradient travel with it. A device holds a few blocks of (rows / devices, d) and one
tile.

Where a device's block of y has at least as many rows as the whole x (a batch and one class per
image), nothing goes around: every device gathers x, and x's sums and gradient are reduced.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from ssl_jax.losses.large_batch import tiles

Array = jax.Array


def forward(
    kind: tiles.Reduction, pattern: tiles.Pattern, x: Array, y: Array | None, tags: Array | None
) -> tuple[tiles.State, tiles.State | None]:
    """Compute `tiles.forward` over the mesh in context, whose size must divide the rows of x, y."""
    if _gathers(x, y):
        return _on_each_device(lambda x, y: _gathered_forward(kind, pattern, x, y))(x, y)

    def device(
        x: Array, y: Array | None, tags: Array | None
    ) -> tuple[tiles.State, tiles.State | None]:
        y = x if y is None else y
        sums = tiles.nothing(kind, x.shape[0], x.dtype)
        down = tiles.nothing(kind, y.shape[0], y.dtype) if pattern.columns else None

        def hop(carry: Any, _: None) -> tuple[Any, None]:
            sums, block, down = carry
            coming = _pass_on(block)  # requested first, so that it can travel meanwhile
            y, of_columns = block
            rows, columns = tiles.reduce(kind, x, y, pattern, (tags, of_columns))
            if down is not None and columns is not None:
                down = _pass_on(kind.merge(down, columns))
            return (kind.merge(sums, rows), coming, down), None

        start = (sums, (y, tags), down)
        (sums, _, down), _ = jax.lax.scan(hop, start, length=_mesh().size)
        return sums, down

    return _on_each_device(device)(x, y, tags)


def backward(
    kind: tiles.Reduction,
    pattern: tiles.Pattern,
    x: Array,
    y: Array | None,
    tags: Array | None,
    rows: tiles.State,
    columns: tiles.State | None,
) -> tuple[Array, Array | None]:
    """Compute `tiles.backward` over the mesh in context. Without y, instead of a gradient the
    states of a block's rows travel, from which their gradient on the local rows is computed.
    """
    if _gathers(x, y):
        local = lambda *args: _gathered_backward(kind, pattern, *args)  # noqa: E731
        return _on_each_device(local)(x, y, rows, columns)
    symmetric = y is None

    def device(
        x: Array,
        y: Array | None,
        tags: Array | None,
        rows: tiles.State,
        columns: tiles.State | None,
    ) -> tuple[Array, Array | None]:
        y = x if y is None else y
        dy = None if symmetric else jnp.zeros_like(y)

        def hop(carry: Any, _: None) -> tuple[Any, None]:
            dx, dy, block = carry
            # A block's gradient follows one hop behind: it too can travel during the computation.
            coming, dy = _pass_on((block, dy))
            y, of_columns, columns = block
            dx, to_y = tiles.pull_back(
                kind, x, y, pattern, (tags, of_columns), rows, columns, both=not symmetric, onto=dx
            )
            return (dx, None if dy is None else dy + to_y, coming), None

        start = (jnp.zeros_like(x), dy, (y, tags, columns))
        (dx, dy, _), _ = jax.lax.scan(hop, start, length=_mesh().size)
        return dx, _pass_on(dy)

    return _on_each_device(device)(x, y, tags, rows, rows if symmetric else columns)


def _gathers(x: Array, y: Array | None) -> bool:
    return y is not None and x.shape[0] * _mesh().size <= y.shape[0]


def _gathered_forward(
    kind: tiles.Reduction, pattern: tiles.Pattern, x: Array, y: Array
) -> tuple[tiles.State, tiles.State | None]:
    """Compute `forward` on one device; as n < m, no entry is a row's own or has a group."""
    rows, columns = tiles.reduce(kind, _gather(x), y, pattern)
    axes, size = _mesh().axis_names, _mesh().size
    # Each device merges what all devices have summed over its own rows.
    parts = [jax.lax.all_to_all(v.reshape(size, -1), axes, 0, 0) for v in rows]
    merge = lambda total, part: (kind.merge(total, part), None)  # noqa: E731
    start = tiles.nothing(kind, x.shape[0], x.dtype)
    return jax.lax.scan(merge, start, tuple(parts))[0], columns


def _gathered_backward(
    kind: tiles.Reduction,
    pattern: tiles.Pattern,
    x: Array,
    y: Array,
    rows: tiles.State,
    columns: tiles.State | None,
) -> tuple[Array, Array | None]:
    x, rows = jax.tree.map(_gather, (x, rows))
    dx, dy = tiles.pull_back(kind, x, y, pattern, (None, None), rows, columns)
    return jax.lax.psum_scatter(dx, _mesh().axis_names, tiled=True), dy


def _gather(x: Array) -> Array:
    return jax.lax.all_gather(x, _mesh().axis_names, tiled=True)


def _mesh() -> Any:
    return jax.sharding.get_abstract_mesh()


def _on_each_device(fn: Any) -> Any:
    rows = P(_mesh().axis_names)
    return jax.shard_map(fn, in_specs=rows, out_specs=rows, check_vma=False)


def _pass_on(block: Any) -> Any:
    """Send every device's `block` to the next one."""
    size = _mesh().size
    order = [(i, (i + 1) % size) for i in range(size)]
    return jax.tree.map(lambda v: jax.lax.ppermute(v, _mesh().axis_names, order), block)
