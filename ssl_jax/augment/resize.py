"""Down-sampling with a random filter."""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

FILTERS = ("area", "linear", "cubic", "lanczos3")


def halve(key: Array, image: Array) -> Array:
    """Halve the sides of an image (H, W, C) by one of `FILTERS`, drawn at random.

    All are antialiased, with the support that half the resolution needs. A network cannot tell
    down-sampled images by the traces of one filter, or by aliasing (Noroozi et al. 2017).
    """
    choice = jax.random.randint(key, (), 0, len(FILTERS), jnp.int32)
    down, across = (matrices(side)[choice].astype(image.dtype) for side in image.shape[:2])
    # Not in bfloat16, whose rounding would be such a trace.
    rows = jnp.einsum("ij,jwc->iwc", down, image, precision=jax.lax.Precision.HIGHEST)
    return jnp.einsum("ij,hjc->hic", across, rows, precision=jax.lax.Precision.HIGHEST)


def matrices(side: int) -> Array:
    """Return each filter as a matrix: (len(FILTERS), side // 2, side); all rows sum to 1.

    Raises:
      ValueError: an odd side.
    """
    if side % 2:
        raise ValueError(f"halve: expected an even side, got {side}")
    half = side // 2
    area = np.eye(half, dtype=np.float32).repeat(2, axis=1) / 2
    identity = jnp.eye(side, dtype=jnp.float32)
    others = [jax.image.resize(identity, (half, side), name) for name in FILTERS[1:]]
    return jnp.stack([area, *others])
