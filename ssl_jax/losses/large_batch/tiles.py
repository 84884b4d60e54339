"""Sums over the rows and columns of a matrix of inner products, one tile of it at a time.

The basis of `similarity` and `ring`. The matrix is `x @ y.T`; a `Reduction` defines the summed
function of its entries, a `Pattern` which entries are summed. Both passes loop over tiles and keep
only vectors between them.

Entries are selected by tags (n, 2) int32, the number and the group of a row: row i of x and row i
of y have the same tag. A tag travels with its row, so a tile needs no position in the matrix.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
State = tuple[Array, ...]
Selection = Literal["all", "own", "across", "within"]

TILE = 512  # largest number of rows and columns: 1 MB in float32, which stays in a core's cache


class Pattern(NamedTuple):
    """The entries of the matrix that are summed, and along what.

    Attributes:
      select: "all"; all but each row's "own" entry; those "across" groups, whose row and column
        are of different groups; those "within" a group, without each row's own.
      columns: sum each column too.
    """

    select: Selection = "all"
    columns: bool = False


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


def _lse_value(state: State) -> Array:
    some = state[1] > 0  # a row without entries: -inf, with a gradient of zero
    return jnp.where(some, state[0] + jnp.log(jnp.where(some, state[1], 1)), -jnp.inf)


def _complement(scores: Array) -> Array:
    """Compute `-log(1 - exp(s))`, with 1 - exp(s) at least the type's epsilon."""
    s = jnp.minimum(scores, -jnp.finfo(scores.dtype).eps)
    return -jnp.where(s > -0.7, jnp.log(-jnp.expm1(s)), jnp.log1p(-jnp.exp(s)))


LOG_SUM_EXP = Reduction(
    empty=lambda dtype: (float(jnp.finfo(dtype).min), 0.0),
    part=_lse_part,
    merge=_lse_merge,
    value=_lse_value,
    # Not exp(scores - value): the rounding of a large value would spoil the exponential.
    pull=lambda state, gradient: (
        state[0],
        jnp.where(state[1] > 0, gradient / jnp.where(state[1] > 0, state[1], 1), 0),
    ),
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
SUM_COMPLEMENTS = SUM_SOFTPLUS._replace(
    part=lambda scores, axis: (jnp.sum(_complement(scores), axis),),
    slope=lambda scores, gradient: jnp.where(
        scores < -jnp.finfo(scores.dtype).eps,
        gradient / jnp.expm1(-jnp.minimum(scores, -jnp.finfo(scores.dtype).eps)),
        0,
    ),
)


def nothing(kind: Reduction, count: int, dtype: Any) -> State:
    """Return the state of `count` rows before anything is summed."""
    return tuple(jnp.full((count,), v, dtype) for v in kind.empty(dtype))


def scores(x: Array, y: Array) -> Array:
    """Compute `x @ y.T`."""
    return jnp.matmul(x, y.T, precision="highest")


def selected(select: Selection, rows: Array, columns: Array) -> Array:
    """Return which entries count, (p, q) bool, by the tags (p, 2), (q, 2); not for "all"."""
    same = rows[:, None] == columns[None]
    own, group = same[..., 0], same[..., 1]
    return ~own if select == "own" else ~group if select == "across" else group & ~own


def forward(
    kind: Reduction, pattern: Pattern, x: Array, y: Array | None, tags: Array | None
) -> tuple[State, State | None]:
    """Return the states of the (n,) rows of `x @ y.T` and, with `columns`, of the (m,) columns.

    Without y it is x itself. The matrix and the selection are then symmetric, and each tile above
    the diagonal also stands for its mirror image.
    """
    if y is None:
        across, down = reduce(kind, x, x, _upper(pattern), (tags, tags), upper=True)
        assert down is not None
        return kind.merge(across, down), None
    return reduce(kind, x, y, pattern, (tags, tags))


def backward(
    kind: Reduction,
    pattern: Pattern,
    x: Array,
    y: Array | None,
    tags: Array | None,
    rows: State,
    columns: State | None,
) -> tuple[Array, Array | None]:
    """Return the gradients of x and y; `rows` and `columns` are `kind.pull` of their states."""
    if y is None:
        dx, dy = pull_back(kind, x, x, _upper(pattern), (tags, tags), rows, rows, upper=True)
        assert dy is not None
        return dx + dy, None
    return pull_back(kind, x, y, pattern, (tags, tags), rows, columns)


def _upper(pattern: Pattern) -> Pattern:
    """Return the pattern above the diagonal, where no entry is a row's own."""
    return Pattern("all" if pattern.select == "own" else pattern.select, columns=True)


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


Tags = tuple[Array | None, Array | None]  # those of the rows and of the columns


@dataclass(frozen=True)
class _Tiles:
    """The tiles of the matrix of x and y, of which only selected entries count.

    With `upper`, only those above the diagonal do.
    """

    a: _Tiling
    b: _Tiling
    xs: Array
    ys: Array
    select: Selection
    tags: Tags
    upper: bool

    @classmethod
    def of(cls, x: Array, y: Array, select: Selection, tags: Tags, upper: bool) -> "_Tiles":
        a, b = _Tiling.of(x.shape[0]), _Tiling.of(y.shape[0])
        rows, columns = tags
        if select == "all" or rows is None or columns is None:
            return cls(a, b, a.split(x), b.split(y), "all", (None, None), upper)
        return cls(a, b, a.split(x), b.split(y), select, (a.split(rows), b.split(columns)), upper)

    def scores(self, i: Array, j: Array, diagonal: bool) -> Array:
        """Return tile (i, j), -inf where an entry does not count or is padding."""
        s = scores(self.xs[i], self.ys[j])
        rows, columns = self.a.place(i)[:, None], self.b.place(j)[None, :]
        counts = []
        if self.tags[0] is not None and self.tags[1] is not None:
            counts.append(selected(self.select, self.tags[0][i], self.tags[1][j]))
        if self.upper and diagonal:
            counts.append(rows < columns)
        if self.a.padding:
            counts.append(rows < self.a.length)
        if self.b.padding:
            counts.append(columns < self.b.length)
        for condition in counts:
            s = jnp.where(condition, s, -jnp.inf)
        return s

    def loop(self, step: Callable[[Any, Array, Array, Array], Any], carry: Any) -> Any:
        """Fold `step(carry, i, j, scores)` over all tiles that hold entries."""
        count = self.a.count
        if self.upper:
            parts = [
                (np.stack(np.triu_indices(count, 1)), False),
                (np.stack([np.arange(count)] * 2), True),
            ]
        else:
            parts = [(np.indices((count, self.b.count)).reshape(2, -1), False)]
        for indices, diagonal in parts:
            pairs = jnp.asarray(indices.T, jnp.int32)

            def each(carry: Any, pair: Array, diagonal: bool = diagonal) -> tuple[Any, None]:
                i, j = pair
                return step(carry, i, j, self.scores(i, j, diagonal)), None

            carry = jax.lax.scan(each, carry, pairs)[0] if len(pairs) else carry
        return carry


def reduce(
    kind: Reduction,
    x: Array,
    y: Array,
    pattern: Pattern,
    tags: Tags = (None, None),
    *,
    upper: bool = False,
) -> tuple[State, State | None]:
    """Return the states of the rows of `x @ y.T` and, with `pattern.columns`, of its columns.

    Args:
      x, y: (n, d), (m, d).
      tags: (n, 2), (m, 2); those of the rows and of the columns.
      upper: count entries above the diagonal only.
    """
    tiles = _Tiles.of(x, y, pattern.select, tags, upper)
    a, b = tiles.a, tiles.b

    def add(sums: State, at: Array, part: State) -> State:
        merged = kind.merge(tuple(s[at] for s in sums), part)
        return tuple(s.at[at].set(m) for s, m in zip(sums, merged, strict=True))

    def step(carry: tuple[State, State], i: Array, j: Array, s: Array) -> tuple[State, State]:
        over_rows, over_columns = carry
        over_rows = add(over_rows, i, kind.part(s, 1))
        if pattern.columns:
            over_columns = add(over_columns, j, kind.part(s, 0))
        return over_rows, over_columns

    start = [
        tuple(v.reshape(t.count, t.size) for v in nothing(kind, t.count * t.size, x.dtype))
        for t in (a, b)
    ]
    over_rows, over_columns = tiles.loop(step, (start[0], start[1] if pattern.columns else ()))
    joined = tuple(a.join(v) for v in over_rows)
    return joined, tuple(b.join(v) for v in over_columns) if pattern.columns else None


def pull_back(
    kind: Reduction,
    x: Array,
    y: Array,
    pattern: Pattern,
    tags: Tags,
    rows: State,
    columns: State | None = None,
    *,
    upper: bool = False,
    both: bool = True,
    onto: Array | None = None,
) -> tuple[Array, Array | None]:
    """Return the gradients of x and, with `both`, of y.

    Args:
      rows, columns: `kind.pull` of the rows' and columns' states.
      tags, upper: as in `reduce`.
      onto: (n, d), array that the gradient of x is added to.
    """
    tiles = _Tiles.of(x, y, pattern.select, tags, upper)
    a, b, xs, ys = tiles.a, tiles.b, tiles.xs, tiles.ys
    of_rows = [a.split(v) for v in rows]
    of_columns = [b.split(v) for v in columns or ()]

    def step(carry: tuple[Array, Array], i: Array, j: Array, s: Array) -> tuple[Array, Array]:
        dx, dy = carry
        ds = kind.slope(s, *(v[i][:, None] for v in of_rows))
        if columns is not None:
            ds += kind.slope(s, *(v[j][None, :] for v in of_columns))
        dx = dx.at[i].add(jnp.matmul(ds, ys[j], precision="highest"))
        if both:  # stored transposed, which avoids transposing each tile
            dy = dy.at[j].add(jnp.matmul(xs[i].T, ds, precision="highest"))
        return dx, dy

    dy = jnp.zeros((b.count, x.shape[1], b.size) if both else (), x.dtype)
    dx = jnp.zeros_like(xs) if onto is None else a.split(onto)
    dx, dy = tiles.loop(step, (dx, dy))
    return a.join(dx), b.join(jnp.swapaxes(dy, 1, 2)) if both else None
