"""Balanced soft assignments by the Sinkhorn-Knopp algorithm (1306.0895)."""

import functools
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.large_batch import sinkhorn_kernel as kernel
from ssl_jax.losses.large_batch import sinkhorn_sweeps as sweeps
from ssl_jax.losses.large_batch.sinkhorn_sweeps import Scores, Sums
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array
Form = Literal["auto", "scaling", "log", "kernel"]

ROUND = 10  # iterations between tolerance checks: SeLa checks after the 1st, 11th, ...
STORE_FROM = 4  # number of readings from which the matrix of a round is stored
GPU_BLOCK = 2**23  # elements: few and long loops; fits the L2 cache of an H100


@any_axes(...)
def sinkhorn(
    scores: Array,
    epsilon: float | Array,
    iterations: int,
    *,
    tolerance: float | None = None,
    valid: Array | None = None,
    form: Form = "auto",
    spec: P | None = None,
) -> Array:
    """Assign B examples to K prototypes, softly, so that each prototype gets about B / K of them.

    An iteration scales the columns of `exp(scores / epsilon)` to equal sums and then its rows to
    sum 1. Only the two vectors of scales are iterated; an iteration reads the matrix once. It ends
    with the rows, whose sums are exact; those of the columns converge with the iterations.

      SwAV     sinkhorn(z @ prototypes, 0.05, 3)                  (2006.09882, equation 3)
      DINOv2   sinkhorn(teacher_logits, teacher_temperature, 3)   (2304.07193, section 4)
      SeLa     sinkhorn(log_probabilities, 1 / 25, 5000, tolerance=0.1); its labels are the argmax
               (1911.05371, equations 7 and 8; 1 / epsilon is the power lambda)

    No form overflows or loses a column:

      scaling  rows are divided by their largest element, scales are stored as logarithms between
               rounds of ten iterations, and no element falls below 1e-26 of its row's largest
               (float32). From five iterations on, the matrix of a round is stored: one more array
               like the scores, in exchange for fewer exponentials.
      log      logarithms throughout, exact for scores of any spread; twice as many exponentials.
               In float32 rounding moves the tolerance's sum by up to 1e-7 B max |scores| / epsilon.
      kernel   for TPUs: as scaling, but the matrix is recomputed from the scores, in the chip's
               memory, at each reading; bfloat16 scores are read as such.

    On several devices, an iteration sums one vector over them: of size K for scores split by rows,
    of size B for scores split by columns. Split by both, it sums one of size K and the B sums of
    the rows, block by block.

    Args:
      scores: (B, K), any real numbers. No gradient flows back into them.
      epsilon: > 0, the smoothness; a larger one gives softer assignments.
      iterations: number of iterations, or with `tolerance` the largest number.
      tolerance: stop when sum_i |u_i / u_i' - 1| of two successive scales of the rows is below it.
        That is a sum over B: float32 cannot bring it below about 1e-7 B.
      valid: (B,) bool; rows that are False (padding) are ignored and come out as 0.
      form: auto is kernel on TPUs (with whole rows of at most `sinkhorn_kernel.MAX_COLUMNS`
        columns) and else scaling.
      spec: partition of the scores over the mesh of the context (`jax.set_mesh`). None is by rows
        over all its axes, if they divide B.

    Returns:
      (B, K) in at least float32, rows of sum 1, partitioned by `spec`.

    Raises:
      ValueError: `scores` is not a matrix; no iteration; an unknown form, or kernel where it cannot
        run.
    """
    check_shapes("sinkhorn: scores (B, K), valid (B)", scores, valid)
    if iterations < 1:
        raise ValueError(f"sinkhorn: expected iterations >= 1, got {iterations}")
    if form not in get_args(Form):
        raise ValueError(f"sinkhorn: form {form!r} is not one of {get_args(Form)}")
    rows, columns = _axes(spec, scores.shape[0])
    scores = jax.lax.stop_gradient(scores)
    wide = jnp.promote_types(scores.dtype, jnp.float32)
    runs_kernel = not columns and scores.shape[1] <= kernel.MAX_COLUMNS and wide == jnp.float32
    if form == "kernel" and not runs_kernel:
        raise ValueError(
            f"sinkhorn: form 'kernel' expects whole rows of at most {kernel.MAX_COLUMNS} columns, "
            f"in at most float32, got {scores.dtype} {scores.shape} split as {spec}"
        )
    valid = jnp.ones(scores.shape[:1], bool) if valid is None else valid
    solve = functools.partial(_solve, rows, columns, iterations, tolerance)

    def run(scores: Array, epsilon: Array, valid: Array) -> Array:
        if form != "auto":
            return solve(form, sweeps.BLOCK, scores, epsilon, valid)
        scaling = functools.partial(solve, "scaling", sweeps.BLOCK)
        choices = {"default": scaling, "cuda": functools.partial(solve, "scaling", GPU_BLOCK)}
        if runs_kernel:
            choices["tpu"] = functools.partial(solve, "kernel", sweeps.BLOCK)
        return jax.lax.platform_dependent(scores, epsilon, valid, **choices)

    if rows or columns:
        specs = (P(rows, columns), P(), P(rows))
        run = jax.shard_map(run, in_specs=specs, out_specs=specs[0], check_vma=False)
    return run(scores, jax.lax.stop_gradient(jnp.asarray(epsilon, wide)), valid)


def _axes(spec: P | None, count: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the mesh axes over which rows and columns are split."""
    mesh = jax.sharding.get_abstract_mesh()
    if spec is None:
        everywhere = mesh.size > 1 and AxisType.Manual not in mesh.axis_types
        return (mesh.axis_names if everywhere and count % mesh.size == 0 else ()), ()
    names = [() if n is None else (n,) if isinstance(n, str) else tuple(n) for n in spec]
    rows, columns, *_ = *names, (), ()
    return rows, columns


class _Round(NamedTuple):
    """The scales after some iterations, as logarithms: x of A's rows, y of its columns.

    Attributes:
      used: y that the last iteration read.
      next: y that it computed.
      log_x: x that it computed.
      ratio: (B,) scale of a row of the scores before the last iteration divided by that after it.
      room: an array like the scores that is overwritten; None if no matrix is stored.
    """

    used: Array
    next: Array
    log_x: Array
    ratio: Array
    room: Array | None


def _solve(
    rows: tuple[str, ...],
    columns: tuple[str, ...],
    iterations: int,
    tolerance: float | None,
    form: Form,
    block: int,
    scores: Array,
    epsilon: Array,
    valid: Array,
) -> Array:
    """Solve one device's part of `sinkhorn`, with rows and columns split over these mesh axes.

    A reading of A takes scales y of its columns and gives x of its rows and the next y. If A is the
    matrix of the scores, an iteration is the second half of one reading and the first half of the
    next. Scores split by columns alone are read by columns: A is their transpose and an iteration
    is one reading, so that devices exchange sums, over A's rows, only once per iteration.
    """
    transposed = bool(columns) and not rows
    inner, outer = (rows, columns) if transposed else (columns, rows)
    source = Scores(scores, epsilon, transposed, inner, outer, block)
    total = jax.lax.psum(jnp.sum(valid), rows)
    share = valid / jnp.maximum(total, 1).astype(epsilon.dtype)
    width = scores.shape[1]
    even = jnp.full(width, 1 / (width * sweeps.devices(columns)), epsilon.dtype)
    if transposed:
        p, q, log_y = even, share, jnp.log(share)
        readings = iterations
    else:
        column_logsumexp = (kernel if form == "kernel" else sweeps).column_logsumexp
        present = jnp.log(valid.astype(epsilon.dtype))
        p, q, log_y = share, even, jnp.log(even) - column_logsumexp(source, present)
        readings = iterations - 1
    if form == "log":
        advance = functools.partial(_log_round, source, p, q)
    else:
        wants_rows = tolerance is not None or transposed
        advance = functools.partial(_round, source, p, q, form, wants_rows)
    # Until the result is written, its array holds the matrix of a round.
    keep = form == "scaling" and (readings >= STORE_FROM or tolerance is not None)
    room = jnp.zeros(source.shape, epsilon.dtype) if keep else None
    start = _Round(log_y, log_y, jnp.zeros_like(p), share, room)

    if tolerance is None:
        full, rest = divmod(readings, ROUND)
        last = jax.lax.fori_loop(0, full, lambda _, r: advance(r, ROUND), start)
        last = advance(last, rest) if rest else last
        log_v = last.log_x if transposed else last.next
    else:

        def unfinished(state: tuple[Array, Array, _Round]) -> Array:
            done, change, _ = state
            return (done < iterations) & (change >= tolerance)

        def look(state: tuple[Array, Array, _Round]) -> tuple[Array, Array, _Round]:
            done, _, last = state
            length = jnp.where(done == 0, 1, jnp.minimum(ROUND, iterations - done))
            last = advance(last, length)
            change = jnp.sum(jnp.abs(last.ratio - 1), where=valid)
            return done + length, jax.lax.psum(change, rows), last

        never = jnp.full((), jnp.inf, epsilon.dtype)
        *_, last = jax.lax.while_loop(unfinished, look, (jnp.zeros((), jnp.int32), never, start))
        log_v = last.log_x if transposed else last.used
    plain = source._replace(transposed=False, inner=columns)
    if form == "kernel":
        return kernel.assign(plain, log_v, valid)
    return sweeps.assign(plain, log_v, valid, None if transposed else last.room)


def _round(
    source: Scores,
    p: Array,
    q: Array,
    form: Form,
    wants_rows: bool,
    last: _Round,
    length: int | Array,
) -> _Round:
    """Iterate on the matrix whose columns have the scales of the last round and whose rows are then
    divided by their largest element.
    """
    log_y, room = last.next, last.room
    tiny = float(jnp.finfo(p.dtype).tiny)
    unit = (log_y > -jnp.inf).astype(p.dtype)
    if form == "kernel":

        def again(y: Array) -> Sums:
            return kernel.sweep(source, log_y, y, p, wants_rows)

        first = again(unit)
    else:
        first, room = sweeps.sweep(source, log_y, unit, p, room)

        def again(y: Array) -> Sums:
            if room is None:
                return sweeps.sweep(source, log_y, y, p, None)[0]
            return sweeps.stored_sweep(source, room, y, p)

    def scaled(sums: Sums) -> tuple[Array, Array]:
        return p / sums.rows, q / jnp.maximum(sums.columns, tiny)

    def iterate(_: Any, scales: tuple[Array, ...]) -> tuple[Array, ...]:
        _, x, _, y = scales
        new_x, new_y = scaled(again(y))
        return x, new_x, y, new_y

    # Before the first of all iterations x is p, of the matrix whose rows are not divided.
    scales = (p * jnp.exp(first.top), scaled(first)[0], unit, scaled(first)[1])
    before, x, used, y = jax.lax.fori_loop(1, length, iterate, scales)
    ratio = used / y if source.transposed else before / x
    return _Round(log_y + jnp.log(used), log_y + jnp.log(y), jnp.log(x) - first.top, ratio, room)


def _log_round(source: Scores, p: Array, q: Array, last: _Round, length: int | Array) -> _Round:
    log_p, log_q = jnp.log(p), jnp.log(q)

    def iterate(_: Any, scales: tuple[Array, ...]) -> tuple[Array, ...]:
        _, log_x, _, log_y = scales
        new_x, log_z = sweeps.log_sweep(source, log_y, log_p)
        return log_x, new_x, log_y, log_q - log_z

    before, log_x, used, log_y = jax.lax.fori_loop(
        0, length, iterate, (log_p, log_p, last.next, last.next)
    )
    ratio = jnp.exp(used - log_y if source.transposed else before - log_x)
    return _Round(used, log_y, log_x, ratio, None)
