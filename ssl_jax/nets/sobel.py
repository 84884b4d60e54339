"""Sobel gradients in place of colours: the fixed first layers of DeepCluster's networks."""

import jax
import jax.numpy as jnp

from ssl_jax.core.tree import Array

CHANNELS = 2


def sobel(images: Array, margin: int = 1) -> Array:
    """Compute the derivatives of the grey images, the mean of their channels: (B, H, W, C) to
    (B, H', W', 2), left minus right and top minus bottom.

    Zeros of `margin` pixels surround the images. With 1 the size stays: DeepCluster (Caron et al.
    2018, arXiv:1807.05520, models/alexnet.py). With 2 it grows by 2 pixels, because the first
    convolution that follows has no padding: DeeperCluster (arXiv:1905.01278,
    src/model/model_factory.py).
    """
    grey = jnp.mean(images, axis=-1)
    grey = jnp.pad(grey, ((0, 0), *[(margin, margin)] * 2))

    def shifted(x: Array, start: int, axis: int) -> Array:
        return jax.lax.slice_in_dim(x, start, x.shape[axis] - 2 + start, axis=axis)

    def smooth(x: Array, axis: int) -> Array:
        """Filter with (1, 2, 1)."""
        return shifted(x, 0, axis) + 2 * shifted(x, 1, axis) + shifted(x, 2, axis)

    def difference(x: Array, axis: int) -> Array:
        """Filter with (1, 0, -1)."""
        return shifted(x, 0, axis) - shifted(x, 2, axis)

    return jnp.stack([difference(smooth(grey, 1), 2), difference(smooth(grey, 2), 1)], axis=-1)
