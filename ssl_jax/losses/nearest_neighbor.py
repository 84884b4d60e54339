"""The nearest neighbour in a support set: the positive of NNCLR (2104.14548)."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array

TILE = 8192  # rows of the support set compared at a time


@any_axes(1)
def nearest_neighbor(x: Array, support: Array) -> Array:
    """Return the row of `support` with the highest cosine to each row of x, (B, d).

    It is returned as it is stored, and no gradient flows. NNCLR is `infonce` from it to the other
    view's prediction. At most (B, TILE) similarities are held; a ring would move as many rows as it
    compares, and there is none.

    Args:
      x: (B, d).
      support: (K, d), K > 0.
    """
    check_shapes("nearest_neighbor: x (B, d), support (K, d)", x, support)
    support = jax.lax.stop_gradient(support)
    return support[nearest(l2_normalize(jax.lax.stop_gradient(x)), l2_normalize(support))]


@any_axes(1)
def nearest(queries: Array, keys: Array, *, others: bool = False) -> Array:
    """Return the index (B,) of the key (K, d) with the largest inner product with each query
    (B, d). With `others`, key i is left out for query i.
    """
    check_shapes("nearest: queries (B, d), keys (K, d)", queries, keys)
    queries, keys = jax.lax.stop_gradient((queries, keys))
    size = min(TILE, keys.shape[0])
    # The last tile starts earlier where tiles do not fill it; rows that come twice change nothing.
    starts = jnp.minimum(jnp.arange(0, keys.shape[0], size), keys.shape[0] - size)
    rows = jnp.arange(queries.shape[0], dtype=starts.dtype)

    def step(best: tuple[Array, Array], start: Array) -> tuple[tuple[Array, Array], None]:
        tile = jax.lax.dynamic_slice_in_dim(keys, start, size)
        scores = jnp.matmul(queries, tile.T, precision="highest")
        if others:
            own = rows[:, None] == start + jnp.arange(size)
            scores = jnp.where(own, -jnp.inf, scores)
        index, score = start + jnp.argmax(scores, axis=1), jnp.max(scores, axis=1)
        closer = score > best[0]
        return (jnp.where(closer, score, best[0]), jnp.where(closer, index, best[1])), None

    none = jnp.full(rows.shape, -jnp.inf, queries.dtype), jnp.zeros_like(rows)
    return jax.lax.scan(step, none, starts)[0][1]
