"""Balanced soft assignments by the Sinkhorn-Knopp algorithm (1306.0895)."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.normalize import as_float

Array = jax.Array

BLOCK = 10  # iterations between two looks at the tolerance: SeLa looks after the 1st, 11th, ...


def sinkhorn(
    scores: Array,
    epsilon: float | Array,
    iterations: int,
    *,
    tolerance: float | None = None,
    valid: Array | None = None,
) -> Array:
    """Assigns B examples to K prototypes, softly, so that each prototype gets about B / K of them.

    An iteration scales the columns of `exp(scores / epsilon)` to equal sums and then its rows to
    sum 1. Only the two vectors of scales are iterated; the matrix is made once (once in `BLOCK`
    iterations) and read. It ends with the rows: they are exact, the columns as near as the
    iterations bring them. Over a sharded batch an iteration sums one vector of K over the devices.

      SwAV     sinkhorn(z @ prototypes, 0.05, 3)                  (2006.09882, equation 3)
      DINOv2   sinkhorn(teacher_logits, teacher_temperature, 3)   (2304.07193, section 4)
      SeLa     sinkhorn(log_probabilities, 1 / 25, 5000, tolerance=0.1); its labels are the argmax
               (1911.05371, equations 7 and 8; 1 / epsilon is the power lambda)

    No overflow, and no column that vanishes: rows are made to sum 1 beforehand, which only changes
    what their scales start from, and the columns' scales are kept as logarithms between blocks.

    Args:
      scores: (B, K), any real numbers. No gradient flows back into them.
      epsilon: > 0, the smoothness; a larger one gives softer assignments.
      iterations: how many, or with `tolerance` at most how many.
      tolerance: stop when sum_i |u_i / u_i' - 1| of two successive scales of the rows is below it.
        That is a sum over B: float32 cannot bring it below about 1e-7 B.
      valid: (B,) bool; rows that are False (padding) have no part in it and come out as 0.

    Returns:
      (B, K) in at least float32, rows of sum 1.

    Raises:
      ValueError: `scores` is no matrix, or no iteration.
    """
    if scores.ndim != 2 or iterations < 1:
        raise ValueError(f"sinkhorn wants (B, K) and an iteration; got {scores.shape, iterations}")
    logits = jax.lax.stop_gradient(as_float(scores) / epsilon)
    rows, columns = logits.shape
    valid = jnp.ones((rows,), bool) if valid is None else valid
    share = valid / jnp.maximum(jnp.sum(valid), 1).astype(logits.dtype)  # of a row in the total
    least = float(jnp.finfo(logits.dtype).tiny) ** 0.7  # its inverse can still be summed

    # With the sums of the rows as a start, also the first iterations are the plain algorithm's.
    sums = jax.nn.logsumexp(logits, axis=1)
    top = jnp.max(sums, where=valid, initial=-jnp.inf)
    start = share * jnp.maximum(jnp.exp(jnp.minimum(sums - top, 0)), least)

    def unfinished(state: tuple[Array, Array, Array]) -> Array:
        done, change, _ = state
        return (done < iterations) & (change >= (0.0 if tolerance is None else tolerance))

    def block(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        done, _, log_v = state
        matrix = jnp.maximum(jax.nn.softmax(logits + log_v, axis=1), least)

        def iterate(_: Array, scales: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            _, u, _ = scales
            v = 1 / (columns * jnp.matmul(u, matrix, precision="highest"))
            return u, share / jnp.matmul(matrix, v, precision="highest"), v

        u = jnp.where(done == 0, start, share)
        length = jnp.where(done == 0, 1, BLOCK) if tolerance is not None else BLOCK
        length = jnp.minimum(length, iterations - done)
        last, u, v = jax.lax.fori_loop(0, length, iterate, (u, u, jnp.ones_like(log_v)))
        change = jnp.sum(jnp.abs(jnp.where(valid, last / u, 1) - 1))
        return done + length, change, log_v + jnp.log(v)

    state = (
        jnp.zeros((), jnp.int32),
        jnp.full((), jnp.inf, share.dtype),
        jnp.zeros_like(logits[0]),
    )
    _, _, log_v = jax.lax.while_loop(unfinished, block, state)
    return jnp.where(valid[:, None], jax.nn.softmax(logits + log_v, axis=1), 0)
