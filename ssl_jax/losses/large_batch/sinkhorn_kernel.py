"""The readings of `sinkhorn_sweeps` as TPU kernels (Pallas), from scores to sums.

XLA writes a block of the matrix between the exponential, the sums of its rows and those of its
columns; here it stays in VMEM, so that a reading fetches the scores once, in their own precision.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ssl_jax.losses.large_batch.sinkhorn_sweeps import Scores, Sums, join_columns, least

Array = jax.Array

MAX_COLUMNS = 2**16  # of which 8 rows in float32 are 2 MiB
BLOCK = 2**18  # elements
VMEM = 32 * 2**20  # bytes: two blocks being fetched, one in use, sums


def column_logsumexp(source: Scores, log_x: Array) -> Array:
    """Compute `sinkhorn_sweeps.column_logsumexp`."""
    length = source.shape[1]
    row = jax.ShapeDtypeStruct((1, length), jnp.float32)
    top, total = _call(_columns_body, source, (log_x[:, None],), (), (row, row))
    return join_columns((top[0], total[0]), source.outer)


def sweep(source: Scores, base: Array, y: Array, p: Array, wants_rows: bool) -> Sums:
    """Compute `sinkhorn_sweeps.sweep`; `rows` and `top` are zeros unless `wants_rows`."""
    count, length = source.shape
    outputs = [jax.ShapeDtypeStruct((1, length), jnp.float32)]
    if wants_rows:
        outputs.append(jax.ShapeDtypeStruct((count, 2), jnp.float32))
    columns, *rows = _call(_sweep_body, source, (p[:, None],), (base[None], y[None]), outputs)
    pair = rows[0] if rows else jnp.zeros((count, 2), jnp.float32)
    return Sums(pair[:, 0], pair[:, 1], jax.lax.psum(columns[0], source.outer))


def assign(source: Scores, log_v: Array, valid: Array) -> Array:
    """Compute `sinkhorn_sweeps.assign`."""
    out = jax.ShapeDtypeStruct(source.shape, jnp.float32)
    valid_rows = valid.astype(jnp.float32)[:, None]
    return _call(_assign_body, source, (valid_rows,), (log_v[None],), (out,))[0]


def _columns_body(rows: Array, scale: Any, scores: Any, log_x: Any, top: Any, total: Any) -> None:
    @pl.when(pl.program_id(0) == 0)
    def _() -> None:
        top[...] = jnp.full_like(top, jnp.finfo(jnp.float32).min)
        total[...] = jnp.zeros_like(total)

    a = scores[...].astype(jnp.float32) * scale[0, 0] + log_x[...]
    a = jnp.where(rows, a, -jnp.inf)
    peak = jnp.maximum(top[...], jnp.max(a, axis=0, keepdims=True))
    added = jnp.sum(jnp.exp(a - peak), axis=0, keepdims=True)
    total[...] = total[...] * jnp.exp(top[...] - peak) + added
    top[...] = peak


def _sweep_body(
    rows: Array, scale: Any, scores: Any, p: Any, base: Any, y: Any, columns: Any, *pairs: Any
) -> None:
    @pl.when(pl.program_id(0) == 0)
    def _() -> None:
        columns[...] = jnp.zeros_like(columns)

    a = scores[...].astype(jnp.float32) * scale[0, 0] + base[...]
    top = jnp.max(a, axis=1, keepdims=True)
    e = jnp.maximum(jnp.exp(a - top), least(jnp.float32))
    total = jnp.sum(e * y[...], axis=1, keepdims=True)
    # Values past the last row are arbitrary, NaN included.
    scaled = jnp.where(rows, p[...] / total * e, 0.0)
    columns[...] += jnp.sum(scaled, axis=0, keepdims=True)
    for pair in pairs:
        pair[:, 0:1] = total
        pair[:, 1:2] = top


def _assign_body(
    rows: Array, scale: Any, scores: Any, valid_rows: Any, log_v: Any, out: Any
) -> None:
    a = scores[...].astype(jnp.float32) * scale[0, 0] + log_v[...]
    e = jnp.exp(a - jnp.max(a, axis=1, keepdims=True))
    out[...] = jnp.where(valid_rows[...] > 0, e / jnp.sum(e, axis=1, keepdims=True), 0.0)


def _call(body: Any, source: Scores, by_row: Any, by_column: Any, outputs: Any) -> Any:
    """Run `body` over blocks of rows, one after another.

    Args:
      body: takes a mask of the block's rows that are rows of the scores, then references: to
        1 / epsilon, a block of the scores, the parts of `by_row`, all of `by_column`, the outputs.
      source: not transposed.
      by_row: arrays (B, 1).
      by_column: arrays (1, K).
      outputs: shapes (B, ...), written block by block, or (1, K), which stay in VMEM.
    """
    scores = source.scores
    count, length = scores.shape
    packed = 8 * 4 // scores.dtype.itemsize  # rows of a tile
    size = max(packed, BLOCK // length // packed * packed)
    size = count if count <= size else size

    def whole(array: Any) -> pl.BlockSpec:
        return pl.BlockSpec((1, array.shape[1]), lambda i: (0, 0))

    def block(array: Any) -> pl.BlockSpec:
        return pl.BlockSpec((size, array.shape[1]), lambda i: (i, 0))

    def masked(*references: Any) -> None:
        row = jax.lax.broadcasted_iota(jnp.int32, (size, 1), 0) + pl.program_id(0) * size
        body(row < count, *references)

    arrays = (scores, *by_row, *by_column, *outputs)
    cost = pl.CostEstimate(
        flops=8 * count * length,
        transcendentals=count * length,
        bytes_accessed=sum(a.size * a.dtype.itemsize for a in arrays),
    )
    return pl.pallas_call(
        masked,
        out_shape=tuple(outputs),
        grid=(pl.cdiv(count, size),),
        in_specs=[
            pl.BlockSpec(memory_space=pltpu.SMEM),
            *map(block, (scores, *by_row)),
            *map(whole, by_column),
        ],
        out_specs=tuple(whole(o) if o.shape[0] == 1 < count else block(o) for o in outputs),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary",), vmem_limit_bytes=VMEM
        ),
        cost_estimate=cost,
    )((1 / source.epsilon).reshape(1, 1), scores, *by_row, *by_column)
