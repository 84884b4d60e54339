"""Instance norm, and changes of a map's size by two that do not alias (Zhang 2019, 1904.11486)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ssl_jax.core.tree import Array
from ssl_jax.nets.layers import at_least_float32, normal

EPS = 1e-5
GAIN = 0.02


def instance_norm(x: Array) -> Array:
    """Normalise each channel of each map (B, h, w, C) to mean 0 and variance 1, in at least float32
    (Ulyanov et al. 2016, arXiv:1607.08022); without trained scale and bias.
    """
    wide = at_least_float32(x)
    wide = wide - jnp.mean(wide, (1, 2), keepdims=True)
    variance = jnp.mean(jnp.square(wide), (1, 2), keepdims=True)
    return (wide * jax.lax.rsqrt(variance + EPS)).astype(x.dtype)


def reflected(x: Array, width: int) -> Array:
    """Extend a map (B, h, w, C) on each side by `width` of its mirrored cells."""
    return jnp.pad(x, ((0, 0), (width, width), (width, width), (0, 0)), "reflect")


def halved(x: Array) -> Array:
    """Halve the sides of a map (B, h, w, C), rounded up: blurred by 1-2-1, every second cell."""
    x = reflected(x, 1)
    for axis in (1, 2):
        size = x.shape[axis]
        parts = [jax.lax.slice_in_dim(x, i, size - 2 + i, 2, axis) for i in range(3)]
        x = (parts[0] + 2 * parts[1] + parts[2]) / 4
    return x


def doubled(x: Array) -> Array:
    """Double the sides of a map (B, h, w, C) by linear interpolation: the transposed convolution
    with 1-3-3-1 of the release, cropped to its middle.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        edges = [(1, 1) if i == axis else (0, 0) for i in range(4)]
        before, here, after = (
            jax.lax.slice_in_dim(jnp.pad(x, edges, "edge"), i, size + i, 1, axis) for i in range(3)
        )
        pairs = jnp.stack([(before + 3 * here) / 4, (3 * here + after) / 4], axis + 1)
        shape = (*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
        x = pairs.reshape(shape)
    return x


def xavier_conv(
    features_in: int, features: int, kernel: int, *, bias: bool, padding: int, **options: Any
) -> nnx.Conv:
    """Create a convolution of stride 1, N(0, gain^2 2 / (fan in + fan out)), zero bias.

    Without `bias` where an instance norm follows and cancels it; the release has one there.
    """
    area = kernel * kernel
    return nnx.Conv(
        features_in,
        features,
        (kernel, kernel),
        padding=padding,
        use_bias=bias,
        kernel_init=normal(GAIN * math.sqrt(2 / (area * (features_in + features)))),
        **options,
    )
