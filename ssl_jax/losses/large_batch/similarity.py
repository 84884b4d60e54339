"""Sums over the rows and columns of a similarity matrix, for losses with a batch of negatives; the
matrix need not be held in memory.

Three forms, all exact in value and gradient:

- "dense" holds the matrix of similarities, (n, m).
- "tiled" holds one tile of it at a time, at most 512 x 512, and recomputes the tile in the backward
  pass. It keeps only the embeddings and one number per row (and column).
- "ring" is for a mesh of devices, the one in context (`jax.set_mesh`): rows stay in place, blocks
  of the other side go around all of its axes, and tiles are used inside a block. Without a mesh of
  several devices in context it is "tiled". Over such a mesh "tiled" is exact too, but every device
  does all of the work.
- "auto" is "dense" while the matrix takes at most `DENSE_BYTES` on a device, "ring" where the mesh
  in context has several devices that divide n and m, and "tiled" otherwise.

"tiled" and "ring" have a gradient but, like every `jax.custom_vjp`, no forward-mode derivative.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.large_batch import ring, tiles
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array
Similarity = Literal["auto", "dense", "tiled", "ring"]

DENSE_BYTES = 16 * 2**20


@any_axes(1)
def log_sum_exp(
    x: Array,
    y: Array | None = None,
    *,
    columns: bool = False,
    groups: Array | None = None,
    within: bool = False,
    similarity: Similarity = "auto",
) -> Any:
    """Compute the logarithm of the summed exponentials over each row of `x @ y.T`.

    A temperature is a factor of x (without y, its square root is), so its gradient is exact too.

    Args:
      x: (n, d), at least float32.
      y: (m, d); None means x itself, without each row's own entry.
      columns: also sum over each column.
      groups: (n,) int, with m = n: the group of row i of x and of row i of y. Only entries whose
        row and column are of different groups count: a row's negatives.
      within: only entries whose row and column are of one group count instead, without each row's
        own: its positives.
      similarity: the form, see above.

    Returns:
      (n,), -inf for a row without entries; with `columns` a pair of it and (m,).

    Raises:
      ValueError: an unknown form, or a ring whose devices do not divide n and m.
    """
    check_shapes("log_sum_exp: x (n, d), y (m, d), groups (n) int", x, y, groups)
    return _sums(tiles.LOG_SUM_EXP, x, y, columns, similarity, groups, within)


@any_axes(1)
def sum_softplus(x: Array, y: Array, *, similarity: Similarity = "auto") -> Array:
    """Sum `log(1 + exp(s))` over each row of s = `x @ y.T`, (n,); see `log_sum_exp`."""
    check_shapes("sum_softplus: x (n, d), y (m, d)", x, y)
    return _sums(tiles.SUM_SOFTPLUS, x, y, False, similarity)


@any_axes(1)
def sum_complements(
    x: Array, y: Array, *, groups: Array | None = None, similarity: Similarity = "auto"
) -> Array:
    """Sum `-log(1 - exp(s))` over each row of s = `x @ y.T` < 0, (n,); see `log_sum_exp`.

    1 - exp(s) is at least the type's epsilon: there the gradient is zero.
    """
    check_shapes("sum_complements: x (n, d), y (m, d), groups (n) int", x, y, groups)
    return _sums(tiles.SUM_COMPLEMENTS, x, y, False, similarity, groups)


def _sums(
    kind: tiles.Reduction,
    x: Array,
    y: Array | None,
    columns: bool,
    similarity: Similarity,
    groups: Array | None = None,
    within: bool = False,
) -> Any:
    if y is not None:
        dtype = jnp.promote_types(x.dtype, y.dtype)
        x, y = x.astype(dtype), y.astype(dtype)
    select: tiles.Selection = "own" if y is None else "all"
    if groups is not None:
        select = "within" if within else "across"
    tags = None
    if select != "all":
        number = jnp.arange(x.shape[0], dtype=jnp.int32)
        tags = jnp.stack([number, number if groups is None else groups.astype(jnp.int32)], axis=1)
    form = _form(similarity, x, x if y is None else y)
    total = _dense if form == "dense" else functools.partial(_lean, form)
    return total(kind, tiles.Pattern(select, columns), x, y, tags)


def _form(similarity: Similarity, x: Array, y: Array) -> str:
    if similarity not in ("auto", "dense", "tiled", "ring"):
        raise ValueError(
            f"similarity: expected 'auto', 'dense', 'tiled' or 'ring', got {similarity!r}"
        )
    n, m = x.shape[0], y.shape[0]
    mesh = jax.sharding.get_abstract_mesh()
    # Inside a `shard_map` the axes are the caller's.
    devices = 1 if AxisType.Manual in mesh.axis_types else max(mesh.size, 1)
    divide = n % devices == 0 and m % devices == 0
    if similarity == "auto":
        if n * m * x.dtype.itemsize <= DENSE_BYTES * devices:
            return "dense"
        return "ring" if devices > 1 and divide else "tiled"
    if similarity == "ring":
        if not divide:
            raise ValueError(
                f"similarity='ring': {devices} devices do not divide {n} rows and {m} columns"
            )
        return "ring" if devices > 1 else "tiled"
    return similarity


def _dense(
    kind: tiles.Reduction, pattern: tiles.Pattern, x: Array, y: Array | None, tags: Array | None
) -> Any:
    scores = tiles.scores(x, x if y is None else y)
    if tags is not None:  # -inf: a large negative number could win or overflow
        scores = jnp.where(tiles.selected(pattern.select, tags, tags), scores, -jnp.inf)
    rows = kind.value(kind.part(scores, 1))
    return (rows, kind.value(kind.part(scores, 0))) if pattern.columns else rows


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _lean(
    form: str,
    kind: tiles.Reduction,
    pattern: tiles.Pattern,
    x: Array,
    y: Array | None,
    tags: Array | None,
) -> Any:
    return _lean_forward(form, kind, pattern, x, y, tags)[0]


def _lean_forward(
    form: str,
    kind: tiles.Reduction,
    pattern: tiles.Pattern,
    x: Array,
    y: Array | None,
    tags: Array | None,
) -> Any:
    rows, columns = (ring if form == "ring" else tiles).forward(kind, pattern, x, y, tags)
    out = kind.value(rows) if columns is None else (kind.value(rows), kind.value(columns))
    return out, (x, y, tags, rows, columns)


def _lean_backward(
    form: str, kind: tiles.Reduction, pattern: tiles.Pattern, residuals: Any, gradient: Any
) -> tuple[Array, Array | None, None]:
    x, y, tags, rows, columns = residuals
    across = kind.pull(rows, gradient if columns is None else gradient[0])
    down = None if columns is None else kind.pull(columns, gradient[1])
    backward = (ring if form == "ring" else tiles).backward
    return *backward(kind, pattern, x, y, tags, across, down), None


_lean.defvjp(_lean_forward, _lean_backward)
