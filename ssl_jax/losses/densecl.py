"""Correspondence of the places of two views by their features (DenseCL, 2011.09157)."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes(1)
def most_similar(first: Array, second: Array) -> Array:
    """Find for each place of `first` the place of `second` with the largest cosine (equation 3).

    Args:
      first: (B, n, C), features of the places of one view of each image.
      second: (B, m, C), those of another view of the same image.

    Returns:
      (B, n) int32, indices into the m places; the first of equal ones. A feature of zeros, as a
      ReLU may leave, equals all others and so matches place 0.

    Raises:
      ValueError: other numbers of images or features.
    """
    check_shapes("most_similar: first (B, n, C), second (B, m, C)", first, second)
    unit = (l2_normalize(x, floor="norm") for x in (first, second))
    # In full precision, as rounding to bfloat16 would select other places.
    cosines = jnp.einsum("bnc,bmc->bnm", *unit, precision="highest")
    return jnp.argmax(cosines, axis=-1).astype(jnp.int32)
