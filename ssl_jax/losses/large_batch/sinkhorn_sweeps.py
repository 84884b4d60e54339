"""Single readings of a matrix that give the scales of its rows and the sums of its scaled columns.

A is `exp(scores / epsilon)`, (m, n), or its transpose, and never exists as a whole: a block of rows
is read, turned into a block of A, used twice in place (in the cache, in VMEM) and dropped.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ssl_jax.losses.normalize import as_float

Array = jax.Array

BLOCK = 2**16  # elements; a few such arrays fill the L2 cache of a CPU core


class Scores(NamedTuple):
    """The scores (B, K) of this device and how to read them.

    Attributes:
      scores: any floating type.
      epsilon: the smoothness.
      transposed: whether A's rows are the columns of the scores.
      inner: mesh axes over which the columns of A are split.
      outer: mesh axes over which the rows of A are split.
      block: elements of a block.
    """

    scores: Array
    epsilon: Array
    transposed: bool = False
    inner: tuple[str, ...] = ()
    outer: tuple[str, ...] = ()
    block: int = BLOCK

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.scores.shape
        return (columns, rows) if self.transposed else (rows, columns)

    def read(self, start: Array | int, size: int) -> Array:
        """Return log A[start : start + size]."""
        block = jax.lax.dynamic_slice_in_dim(self.scores, start, size, int(self.transposed))
        block = as_float(block) / self.epsilon
        return block.T if self.transposed else block

    def fold(self, body: Callable[[Array, Array | int, Any], Any], init: Any) -> Any:
        """Fold `body(log A[start : start + size], start, carry)` over the blocks of rows."""
        return _fold(self.read, self.shape, self.block, body, init)


def _fold(
    read: Callable[[Array | int, int], Array],
    shape: tuple[int, int],
    elements: int,
    body: Callable[[Array, Array | int, Any], Any],
    init: Any,
    ahead: bool = True,
) -> Any:
    """Fold `body` over blocks of rows. With `ahead`, a block is fetched into the loop's state one
    iteration before its use, so that it is an array of its own; otherwise XLA may fetch it again
    for each use. Products on a CPU do not.
    """
    count, length = shape
    size = max(1, min(count, elements // length))
    size = next((n for n in range(size, size // 2, -1) if count % n == 0), size)
    full, rest = divmod(count, size)

    def turn(i: Array, state: tuple[Array, Any]) -> tuple[Array, Any]:
        block, carry = state
        return read((i + 1) * size, size), body(block, i * size, carry)

    if ahead:
        block, carry = jax.lax.fori_loop(0, full - 1, turn, (read(0, size), init))
        carry = body(block, (full - 1) * size, carry)
    else:
        carry = jax.lax.fori_loop(
            0, full, lambda i, carry: body(read(i * size, size), i * size, carry), init
        )
    return body(read(full * size, rest), full * size, carry) if rest else carry


class Sums(NamedTuple):
    """Sums of one reading, for scales y of the columns, E = A exp(base - top) and x = p / (E y).

    Attributes:
      rows: (m,) E y.
      top: (m,) largest logarithm in each row of A exp(base).
      columns: (n,) x E.
    """

    rows: Array
    top: Array
    columns: Array


def least(dtype: Any) -> float:
    """Return the floor of the elements of E, whose inverse can still be summed."""
    return float(jnp.finfo(dtype).tiny) ** 0.7


def product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")


def put(whole: Array, part: Array, start: Array | int) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(whole, part, start, 0)


def take(whole: Array, start: Array | int, size: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(whole, start, size, 0)


def column_logsumexp(source: Scores, log_x: Array) -> Array:
    """Compute log (x A), (n,), exact for numbers of any size; `log_x` (m,) may hold -inf."""

    def body(block: Array, start: Array | int, columns: tuple[Array, Array]) -> tuple[Array, Array]:
        return _add_columns(columns, block + take(log_x, start, len(block))[:, None])

    columns = source.fold(body, _no_columns(source, log_x.dtype))
    return join_columns(columns, source.outer)


def log_sweep(source: Scores, log_y: Array, log_p: Array) -> tuple[Array, Array]:
    """Return (log x, log (x A)) with x = p / (A y): as `sweep`, but exact for numbers of any size,
    with twice as many exponentials.
    """

    def body(block: Array, start: Array | int, carry: Any) -> Any:
        log_x, columns = carry
        inside = block + log_y
        top = jax.lax.pmax(jnp.max(inside, axis=1), source.inner)
        total = jax.lax.psum(jnp.sum(jnp.exp(inside - top[:, None]), axis=1), source.inner)
        part = take(log_p, start, len(block)) - top - jnp.log(total)
        return put(log_x, part, start), _add_columns(columns, block + part[:, None])

    init = (jnp.zeros_like(log_p), _no_columns(source, log_p.dtype))
    log_x, columns = source.fold(body, init)
    return log_x, join_columns(columns, source.outer)


def _no_columns(source: Scores, dtype: Any) -> tuple[Array, Array]:
    """Return the initial largest logarithm (finite, as inf - inf is NaN) and the scaled sum."""
    length = source.shape[1]
    return jnp.full(length, jnp.finfo(dtype).min, dtype), jnp.zeros(length, dtype)


def _add_columns(columns: tuple[Array, Array], a: Array) -> tuple[Array, Array]:
    top, total = columns
    peak = jnp.maximum(top, jnp.max(a, axis=0))
    return peak, total * jnp.exp(top - peak) + jnp.sum(jnp.exp(a - peak), axis=0)


def join_columns(columns: tuple[Array, Array], outer: tuple[str, ...]) -> Array:
    """Compute log (total exp(top)), with the sum over the devices of `outer`."""
    top, total = columns
    peak = jax.lax.pmax(top, outer)
    return peak + jnp.log(jax.lax.psum(total * jnp.exp(top - peak), outer))


def sweep(
    source: Scores, base: Array, y: Array, p: Array, room: Array | None
) -> tuple[Sums, Array | None]:
    """Compute the sums, and write E (m, n) to `room` if there is one.

    Args:
      source: A.
      base: (n,) logarithm of the scales of the columns when E was, or would have been, computed.
      y: (n,) factor by which they have changed since then.
      p: (m,) target sums of the rows.
      room: (m, n), overwritten.
    """
    floor = least(base.dtype)

    def body(block: Array, start: Array | int, carry: Any) -> Any:
        sums, room = carry
        a = block + base
        top = jax.lax.pmax(jnp.max(a, axis=1), source.inner)
        e = jnp.maximum(jnp.exp(a - top[:, None]), floor)
        sums = _add(sums._replace(top=put(sums.top, top, start)), e, start, y, p, source.inner)
        return sums, None if room is None else put(room, e, start)

    sums, room = source.fold(body, (_no_sums(source, base.dtype), room))
    return sums._replace(columns=jax.lax.psum(sums.columns, source.outer)), room


def stored_sweep(source: Scores, stored: Array, y: Array, p: Array) -> Sums:
    """Compute the sums of `sweep`, except `top`, with the E `stored` by an earlier one."""

    def body(e: Array, start: Array | int, sums: Sums) -> Sums:
        return _add(sums, e, start, y, p, source.inner)

    init = _no_sums(source, stored.dtype)

    def read(start: Array | int, size: int) -> Array:
        # On a TPU, the two products would otherwise each fetch the block.
        return jax.lax.optimization_barrier(take(stored, start, size))

    sums = _fold(read, source.shape, source.block, body, init, ahead=False)
    return sums._replace(columns=jax.lax.psum(sums.columns, source.outer))


def _no_sums(source: Scores, dtype: Any) -> Sums:
    count, length = source.shape
    return Sums(jnp.zeros(count, dtype), jnp.zeros(count, dtype), jnp.zeros(length, dtype))


def _add(
    sums: Sums, e: Array, start: Array | int, y: Array, p: Array, inner: tuple[str, ...]
) -> Sums:
    rows = jax.lax.psum(product(e, y), inner)
    columns = sums.columns + product(take(p, start, len(e)) / rows, e)
    return sums._replace(rows=put(sums.rows, rows, start), columns=columns)


def assign(source: Scores, log_v: Array, valid: Array, room: Array | None) -> Array:
    """Compute the softmax (B, K) over the columns of log A + log v, 0 in rows that are not valid.
    `source` must not be transposed; `room` is overwritten.
    """
    if source.inner:
        a = as_float(source.scores) / source.epsilon + log_v
        top = jax.lax.pmax(jnp.max(a, axis=1, keepdims=True), source.inner)
        e = jnp.exp(a - top)
        total = jax.lax.psum(jnp.sum(e, axis=1, keepdims=True), source.inner)
        return jnp.where(valid[:, None], e / total, 0)

    def body(block: Array, start: Array | int, out: Array) -> Array:
        probabilities = jax.nn.softmax(block + log_v, axis=1)
        return put(out, jnp.where(take(valid, start, len(block))[:, None], probabilities, 0), start)

    return source.fold(body, jnp.zeros(source.shape, log_v.dtype) if room is None else room)


def devices(axes: tuple[str, ...]) -> int:
    return math.prod(jax.lax.axis_size(axis) for axis in axes)
