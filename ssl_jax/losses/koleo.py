"""KoLeo: features that are spread evenly on the sphere (1806.03198, equation 3)."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.nearest_neighbor import nearest
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array

EPS = 1e-8


@any_axes()
def koleo(x: Array, groups: int = 1) -> Array:
    """Compute `-mean_i log(|x_i - x_n(i)|)`, x_n(i) being the nearest other row: minus the
    differential entropy, by the estimate of Kozachenko and Leonenko, up to constants.

        for i in range(B):
            n = argmax(x[i] @ x[j] for j in range(B) if j != i)
            losses[i] = -log(norm(x[i] - x[n] + 1e-8) + 1e-8)    # dinov2/loss/koleo_loss.py

    The rows are brought to unit length. The gradient flows through a row and its neighbour, and not
    through the choice. At most (B, `nearest_neighbor.TILE`) similarities are held.

    Args:
      x: (B, d).
      groups: number of groups of consecutive rows; the neighbour is in a row's own group. The
        release of DINOv2 (2304.07193) searches on each device.

    Returns:
      A scalar, float32 or wider.

    Raises:
      ValueError: not a matrix, or not as many equal groups of two or more rows.
    """
    check_shapes("koleo: x (B, d)", x)
    if groups < 1 or len(x) % groups or len(x) < 2 * groups:
        raise ValueError(
            f"koleo: expected {groups} equal groups of two or more rows, got {len(x)} rows"
        )
    rows = l2_normalize(x, eps=EPS, floor="norm").reshape(groups, -1, x.shape[1])
    neighbors = jax.vmap(lambda group: group[nearest(group, group, others=True)])(rows)
    distance = jnp.sqrt(jnp.sum(jnp.square(rows - neighbors + EPS), axis=-1))
    return -jnp.mean(jnp.log(distance + EPS))
