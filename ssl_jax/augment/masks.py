"""Which patches a masked method hides."""

import jax
import jax.numpy as jnp

Array = jax.Array


def random_masking(noise: Array, ratio: float) -> tuple[Array, Array, Array]:
    """MAE's random masking (He et al. 2021, `models_mae.py`): the patches of least noise are kept.

    Args:
      noise: (..., L), one random value a patch.
      ratio: share of the patches to hide; int(L * (1 - ratio)) are kept.

    Returns:
      ids_keep (..., K) int32, the kept patches by rising noise; mask (..., L) float32, 1 where
      hidden; ids_restore (..., L) int32, the place of each patch in the order by noise.
    """
    length = noise.shape[-1]
    kept = int(length * (1 - ratio))
    order = jnp.argsort(noise, axis=-1).astype(jnp.int32)
    ids_restore = jnp.argsort(order, axis=-1).astype(jnp.int32)
    mask = (ids_restore >= kept).astype(jnp.float32)
    return order[..., :kept], mask, ids_restore


def take(tokens: Array, ids: Array) -> Array:
    """(..., L, D) tokens at (..., K) positions: (..., K, D)."""
    return jnp.take_along_axis(tokens, ids[..., None], axis=-2)
