"""Groups of SMoG: synchronous momentum grouping (2207.06167).

The loss is the cross-entropy of a view's `group_logits` with the other view's `nearest_group`.
"""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float, l2_normalize
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes(1)
def group_logits(x: Array, groups: Array, temperature: float | Array) -> Array:
    """Compute the cosines of x (B, d) and groups (G, d) by the temperature, (B, G).

    The gradient flows into both. G is a few thousand: there is no tiled form.
    """
    check_shapes("group_logits: x (B, d), groups (G, d)", x, groups)
    x, groups = l2_normalize(x, floor="norm"), l2_normalize(groups, floor="norm")
    return jnp.matmul(x, groups.T, precision="highest") / temperature


@any_axes(1)
def nearest_group(x: Array, groups: Array) -> Array:
    """Return the group with the highest cosine to each row of x, (B,) int32."""
    check_shapes("nearest_group: x (B, d), groups (G, d)", x, groups)
    return jnp.argmax(group_logits(x, groups, 1.0), axis=1).astype(jnp.int32)


@any_axes()
def update_groups(groups: Array, x: Array, assignment: Array, momentum: float) -> Array:
    """Move each group towards the mean of its rows, (G, d): `m g + (1 - m) mean`.

    Groups without rows stay. The gradient flows into x: the loss reads the updated groups. They are
    not normalised.

    Args:
      groups: (G, d).
      x: (B, d), encodings.
      assignment: (B,) int, the group of each row.
      momentum: m; 0.99 in lightly 1.6.0.
    """
    check_shapes(
        "update_groups: groups (G, d), x (B, d), assignment (B) int", groups, x, assignment
    )
    groups, x = as_float(groups), as_float(x)
    sums = jax.ops.segment_sum(x, assignment, groups.shape[0])
    count = jnp.bincount(assignment, length=groups.shape[0])[:, None]
    moved = momentum * groups + (1 - momentum) * sums / jnp.maximum(count, 1)
    return jnp.where(count > 0, moved, groups)
