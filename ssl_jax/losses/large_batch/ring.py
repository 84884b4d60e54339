"""Sums over a matrix of inner products whose rows and columns lie on different devices.

Every device keeps its rows of x; blocks of y go from device to device, around all axes of the mesh
in context, until each has visited all of them (the ring of Inf-CL, 2410.17243). A block's column
sums and its gradient travel with it. A device holds a few blocks of (rows / devices, d) and one
tile.
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
