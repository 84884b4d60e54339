"""Sums over the rows and columns of a matrix of inner products, one tile of it at a time.

The basis of `similarity` and `ring`. The matrix is `x @ y.T`; a `Reduction` defines the summed
function of its entries, a `Pattern` which entries are summed. Both passes loop over tiles and keep
only vectors between them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
State = tuple[Array, ...]
Keep = Callable[[Array, Array], Array]
Pattern = Literal["rows", "both", "self"]  # sums of rows; and of columns; of x @ x.T off-diagonal

TILE = 512  # largest number of rows and columns: 1 MB in float32, which stays in a core's cache


class Reduction(NamedTuple):
    """A sum over a row (or column) that can be computed from parts.

    Attributes:
      empty: dtype -> state without entries, one number for each part of the state.
      part: (scores, axis) -> state of some entries of each row.
      merge: (state, state) -> state of both.
      value: state -> the sum.
      pull: (state, gradient of the value) -> per-row arrays that `slope` needs.
      slope: (scores, *result of `pull`, broadcast against them) -> gradient of the scores. Zeros in
        place of that result (padding) give a gradient of zero.
    """

    empty: Callable[[Any], tuple[float, ...]]
    part: Callable[[Array, int], State]
    merge: Callable[[State, State], State]
    value: Callable[[State], Array]
    pull: Callable[[State, Array], State]
    slope: Callable[..., Array]


def _lse_part(scores: Array, axis: int) -> State:
    # Not -inf: a row without candidates would compute -inf - -inf.
    peak = jnp.maximum(jnp.max(scores, axis), jnp.finfo(scores.dtype).min)
    peak = jax.lax.stop_gradient(peak)  # the sum does not depend on it
    return peak, jnp.sum(jnp.exp(scores - jnp.expand_dims(peak, axis)), axis)


def _lse_merge(a: State, b: State) -> State:
    peak = jnp.maximum(a[0], b[0])
    return peak, a[1] * jnp.exp(a[0] - peak) + b[1] * jnp.exp(b[0] - peak)


LOG_SUM_EXP = Reduction(
    empty=lambda dtype: (float(jnp.finfo(dtype).min), 0.0),
    part=_lse_part,
    merge=_lse_merge,
    value=lambda state: state[0] + jnp.log(state[1]),
    # Not exp(scores - value): the rounding of a large value would spoil the exponential.
    pull=lambda state, gradient: (state[0], gradient / state[1]),
    slope=lambda scores, peak, weight: jnp.exp(scores - peak) * weight,
)
SUM_SOFTPLUS = Reduction(
    empty=lambda dtype: (0.0,),
    part=lambda scores, axis: (jnp.sum(jax.nn.softplus(scores), axis),),
    merge=lambda a, b: (a[0] + b[0],),
    value=lambda state: state[0],
    pull=lambda state, gradient: (gradient,),
    slope=lambda scores, gradient: jax.nn.sigmoid(scores) * gradient,
)


def nothing(kind: Reduction, count: int, dtype: Any) -> State:
    """Return the state of `count` rows before anything is summed."""
    return tuple(jnp.full((count,), v, dtype) for v in kind.empty(dtype))


def scores(x: Array, y: Array) -> Array:
    """Compute `x @ y.T`."""
    return jnp.matmul(x, y.T, precision="highest")


def forward(
    kind: Reduction, pattern: Pattern, x: Array, y: Array | None
) -> tuple[State, State | None]:
    """Return the states of the (n,) rows of `x @ y.T` and, with "both", of the (m,) columns.

    With "self", y is x itself and no row counts its own entry. Each tile above the diagonal then
    also stands for its mirror image.
    """
    if pattern == "self":
        across, down = reduce(kind, x, x, columns=True, keep=_above, upper=True)
        assert down is not None
        return kind.merge(across, down), None
    assert y is not None
    return reduce(kind, x, y, columns=pattern == "both")


def backward(
    kind: Reduction, pattern: Pattern, x: Array, y: Array | None, rows: State, columns: State | None
) -> tuple[Array, Array | None]:
    """Return the gradients of x and y; `rows` and `columns` are `kind.pull` of their states."""
    if pattern == "self":
        dx, dy = pull_back(kind, x, x, rows, rows, keep=_above, upper=True)
        assert dy is not None
        return dx + dy, None
    assert y is not None
    return pull_back(kind, x, y, rows, columns)


def _above(rows: Array, columns: Array) -> Array:
    return rows < columns


@dataclass(frozen=True)
class _Tiling:
    """Tiling (count, size) of a padded axis of `length`."""

    length: int
    count: int
    size: int

    @classmethod
    def of(cls, length: int) -> "_Tiling":
        count = -(-length // TILE)
        return cls(length, count, -(-length // count))

    @property
    def padding(self) -> int:
        return self.count * self.size - self.length

    def split(self, x: Array) -> Array:
        padded = jnp.pad(x, ((0, self.padding), *[(0, 0)] * (x.ndim - 1)))
        return padded.reshape(self.count, self.size, *x.shape[1:])

    def join(self, x: Array) -> Array:
        return x.reshape(-1, *x.shape[2:])[: self.length]

    def place(self, tile: Array) -> Array:
        return tile * self.size + jnp.arange(self.size)


def _masked(s: Array, keep: Keep | None, a: _Tiling, b: _Tiling, i: Array, j: Array) -> Array:
    """Set entries that do not count, by `keep` or as padding, to -inf."""
    rows, columns = a.place(i)[:, None], b.place(j)[None, :]
    if keep is not None:
        s = jnp.where(keep(rows, columns), s, -jnp.inf)
    if a.padding:
        s = jnp.where(rows < a.length, s, -jnp.inf)
    if b.padding:
        s = jnp.where(columns < b.length, s, -jnp.inf)
    return s


def _loop(step: Any, carry: Any, a: _Tiling, b: _Tiling, keep: Keep | None, upper: bool) -> Any:
    """Fold `step(carry, i, j, keep)` over all tiles; with `upper`, skip those below the diagonal
    and count those above it whole.
    """
    i, j = np.triu_indices(a.count, 1) if upper else np.indices((a.count, b.count)).reshape(2, -1)
    parts = [(i, j, None if upper else keep)]
    if upper:
        parts.append((np.arange(a.count), np.arange(a.count), keep))
    for rows, columns, condition in parts:
        pairs = jnp.asarray(np.stack([rows, columns], axis=1), jnp.int32)
        each = lambda carry, pair: (step(carry, *pair, condition), None)  # noqa: B023, E731
        carry = jax.lax.scan(each, carry, pairs)[0] if len(pairs) else carry
    return carry


def reduce(
    kind: Reduction,
    x: Array,
    y: Array,
    *,
    columns: bool = False,
    keep: Keep | None = None,
    upper: bool = False,
) -> tuple[State, State | None]:
    """Return the states of the rows of `x @ y.T` and, with `columns`, of its columns.

    Args:
      x, y: (n, d), (m, d).
      columns: whether to reduce the columns as well.
      keep: (row numbers, column numbers) -> bool, which entries count; all by default.
      upper: skip tiles below the diagonal and count those above it whole, whatever `keep` returns;
        valid if only entries above the diagonal count.
    """
    a, b = _Tiling.of(x.shape[0]), _Tiling.of(y.shape[0])
    xs, ys = a.split(x), b.split(y)

    def add(sums: State, at: Array, part: State) -> State:
        merged = kind.merge(tuple(s[at] for s in sums), part)
        return tuple(s.at[at].set(m) for s, m in zip(sums, merged, strict=True))

    def step(
        carry: tuple[State, State], i: Array, j: Array, keep: Keep | None
    ) -> tuple[State, State]:
        over_rows, over_columns = carry
        s = _masked(scores(xs[i], ys[j]), keep, a, b, i, j)
        over_rows = add(over_rows, i, kind.part(s, 1))
        if columns:
            over_columns = add(over_columns, j, kind.part(s, 0))
        return over_rows, over_columns

    start = [
        tuple(v.reshape(t.count, t.size) for v in nothing(kind, t.count * t.size, x.dtype))
        for t in (a, b)
    ]
    carry = (start[0], start[1] if columns else ())
    over_rows, over_columns = _loop(step, carry, a, b, keep, upper)
    joined = tuple(a.join(v) for v in over_rows)
    return joined, tuple(b.join(v) for v in over_columns) if columns else None


def pull_back(
    kind: Reduction,
    x: Array,
    y: Array,
    rows: State,
    columns: State | None = None,
    *,
    keep: Keep | None = None,
    upper: bool = False,
    both: bool = True,
    onto: Array | None = None,
) -> tuple[Array, Array | None]:
    """Return the gradients of x and, with `both`, of y.

    Args:
      rows, columns: `kind.pull` of the rows' and columns' states.
      keep, upper: as in `reduce`.
      onto: (n, d), array that the gradient of x is added to.
    """
    a, b = _Tiling.of(x.shape[0]), _Tiling.of(y.shape[0])
    xs, ys = a.split(x), b.split(y)
    of_rows = [a.split(v) for v in rows]
    of_columns = [b.split(v) for v in columns or ()]

    def step(
        carry: tuple[Array, Array], i: Array, j: Array, keep: Keep | None
    ) -> tuple[Array, Array]:
        dx, dy = carry
        s = _masked(scores(xs[i], ys[j]), keep, a, b, i, j)
        ds = kind.slope(s, *(v[i][:, None] for v in of_rows))
        if columns is not None:
            ds += kind.slope(s, *(v[j][None, :] for v in of_columns))
        dx = dx.at[i].add(jnp.matmul(ds, ys[j], precision="highest"))
        if both:  # stored transposed, which avoids transposing each tile
            dy = dy.at[j].add(jnp.matmul(xs[i].T, ds, precision="highest"))
        return dx, dy

    dy = jnp.zeros((b.count, x.shape[1], b.size) if both else (), x.dtype)
    dx = jnp.zeros_like(xs) if onto is None else a.split(onto)
    dx, dy = _loop(step, (dx, dy), a, b, keep, upper)
    return a.join(dx), b.join(jnp.swapaxes(dy, 1, 2)) if both else None
