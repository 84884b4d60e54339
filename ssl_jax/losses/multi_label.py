"""Classification with several labels per image, by one sigmoid per class (1707.02968)."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes(...)
def soft_sigmoid_cross_entropy(logits: Array, targets: Array) -> Array:
    """`sum_c softplus(z_c) - y_c z_c` for each row, in at least float32.

    Args:
      logits: z, (..., C).
      targets: y, (..., C), probabilities of each class.

    Returns:
      (...), one value per row.
    """
    check_shapes("soft_sigmoid_cross_entropy: logits, targets (..., C)", logits, targets)
    z = as_float(logits)
    return jnp.sum(jax.nn.softplus(z) - targets * z, axis=-1)


@any_axes(1)
def sigmoid_cross_entropy(logits: Array, labels: Array) -> Array:
    """`sum_c softplus(z_c) - y_c z_c` for each row, in at least float32.

    y_c is 1 if class c is among the row's labels, else 0. A row without labels counts too: each of
    its classes is a negative. With the classes split over devices, each device sums its own.

    Args:
      logits: z, (B, C).
      labels: (B, n) class numbers in any order, -1 for none; a repeated one counts once.

    Returns:
      (B,), one value per row.
    """
    check_shapes("sigmoid_cross_entropy: logits (B, C), labels (B, n) int", logits, labels)
    z = as_float(logits)
    # Compared, not scattered: that needs no class of another device.
    targets = jnp.any(labels[:, :, None] == jnp.arange(z.shape[-1]), axis=1)
    return jnp.sum(jax.nn.softplus(z) - jnp.where(targets, z, 0), axis=-1)
