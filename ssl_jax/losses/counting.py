"""The loss of learning to count (Noroozi et al. 2017, 1708.06734)."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes()
def counting(whole: Array, tiles: Array, other: Array, margin: float = 10.0) -> Array:
    """Counts of an image are the sum of those of its tiles, and not those of another image.

    `|whole - sum_j tiles_j|^2 + max(0, margin - |other - sum_j tiles_j|^2)`, averaged over the
    batch (equation 5); a scalar. The squared norms are sums over the D counts, and the hinge is of
    the norm. A public port (gitlimlab/Representation-Learning-by-Learning-to-Count) has a hinge
    per count and means over them, which is another loss.

    Args:
      whole: (B, D), counts of the down-sampled image.
      tiles: (B, n, D), counts of its tiles.
      other: (B, D), counts of another down-sampled image.
      margin: squared distance beyond which the counts of another image have no gradient.
    """
    check_shapes("counting: whole (B, D), tiles (B, n, D), other (B, D)", whole, tiles, other)
    total = jnp.sum(as_float(tiles), axis=1)
    same = jnp.sum(jnp.square(as_float(whole) - total), axis=-1)
    different = jnp.sum(jnp.square(as_float(other) - total), axis=-1)
    return jnp.mean(same + jnp.maximum(margin - different, 0))
