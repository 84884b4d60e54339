"""Vectors of unit length, in the two conventions that released codes use near zero, and values of
mean 0 and variance 1.
"""

from typing import Literal

import jax
import jax.numpy as jnp

Array = jax.Array


def as_float(x: Array) -> Array:
    """Return `x` in at least float32: losses are never computed in half precision."""
    return jnp.asarray(x, jnp.promote_types(jnp.result_type(x), jnp.float32))


def l2_normalize(
    x: Array, axis: int = -1, eps: float = 1e-12, floor: Literal["square", "norm"] = "square"
) -> Array:
    """Compute `x / |x|` along `axis` in at least float32; 0 with zero gradient for a zero vector.

    Args:
      x: any shape.
      axis: axis of the vectors.
      eps: smallest divisor.
      floor: what `eps` bounds: the squared norm, `x rsqrt(max(|x|^2, eps))` (TensorFlow, SimCLR,
        BYOL), or the norm, `x / max(|x|, eps)` (PyTorch's `normalize`).
    """
    x = as_float(x)
    least = eps if floor == "square" else eps**2
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis, keepdims=True), least))


def standardize(x: Array, axis: int | tuple[int, ...] = -1, eps: float = 1e-5) -> Array:
    """Compute `(x - mean) / sqrt(variance + eps)` over `axis`, with the biased variance.

    A layer norm (the last axis) or batch norm without parameters, in at least float32.
    """
    x = as_float(x)
    mean = jnp.mean(x, axis, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(jnp.var(x, axis, keepdims=True) + eps)
