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
    kind: tiles.Reduction, pattern: tiles.Pattern, x: Array, y: Array | None
) -> tuple[tiles.State, tiles.State | None]:
    """Compute `tiles.forward` over the mesh in context, whose size must divide the rows of x, y."""

    def device(x: Array, y: Array | None) -> tuple[tiles.State, tiles.State | None]:
        y = x if y is None else y
        sums = tiles.nothing(kind, x.shape[0], x.dtype)
        down = tiles.nothing(kind, y.shape[0], y.dtype) if pattern == "both" else None

        def hop(carry: Any, k: Array) -> tuple[Any, None]:
            sums, y, down = carry
            coming = _pass_on(y)  # requested first, so that it can travel during the computation
            rows, columns = tiles.reduce(
                kind, x, y, columns=pattern == "both", keep=_keep(pattern, k)
            )
            if down is not None and columns is not None:
                down = _pass_on(kind.merge(down, columns))
            return (kind.merge(sums, rows), coming, down), None

        (sums, _, down), _ = jax.lax.scan(hop, (sums, y, down), jnp.arange(_mesh().size))
        return sums, down

    return _on_each_device(device)(x, y)


def backward(
    kind: tiles.Reduction,
    pattern: tiles.Pattern,
    x: Array,
    y: Array | None,
    rows: tiles.State,
    columns: tiles.State | None,
) -> tuple[Array, Array | None]:
    """Compute `tiles.backward` over the mesh in context. With "self", instead of a gradient the
    states of a block's rows travel, from which their gradient on the local rows is computed.
    """

    def device(
        x: Array, y: Array | None, rows: tiles.State, columns: tiles.State | None
    ) -> tuple[Array, Array | None]:
        y = x if y is None else y
        dy = None if pattern == "self" else jnp.zeros_like(y)

        def hop(carry: Any, k: Array) -> tuple[Any, None]:
            dx, dy, block = carry
            # A block's gradient follows one hop behind: it too can travel during the computation.
            coming, dy = _pass_on((block, dy))
            y, columns = block
            keep, both = _keep(pattern, k), dy is not None
            dx, to_y = tiles.pull_back(kind, x, y, rows, columns, keep=keep, both=both, onto=dx)
            return (dx, dy + to_y if both else None, coming), None

        start = (jnp.zeros_like(x), dy, (y, columns))
        (dx, dy, _), _ = jax.lax.scan(hop, start, jnp.arange(_mesh().size))
        return dx, _pass_on(dy)

    return _on_each_device(device)(x, y, rows, rows if pattern == "self" else columns)


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


def _keep(pattern: tiles.Pattern, hop: Array) -> tiles.Keep | None:
    """Return the condition that skips a row's own entry: at hop 0 a device meets its own rows."""
    return (lambda rows, columns: (rows != columns) | (hop > 0)) if pattern == "self" else None
