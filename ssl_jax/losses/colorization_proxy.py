"""Hue and chroma as histograms, and the loss of colorization as a proxy task (Larsson et al. 2016,
1603.06668, and 2017, 1703.04044).
"""

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.cross_entropy import divergence
from ssl_jax.losses.normalize import as_float
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes(1)
def histograms(values: Array, positions: Array, bins: int = 32, window: int = 7) -> Array:
    """Histograms of a value over a square of pixels around each position, normalised.

    Pixels outside of the image do not count (gustavla/autocolorize,
    sparse_histogram_extractor_layer.cpp). The TensorFlow code of the second paper has the square
    one pixel lower and further right (colorize_hypercolumn3.py).

    Args:
      values: (B, H, W) in [0, 1]; bin k holds [k / bins, (k + 1) / bins), the last one also 1.
      positions: (B, P, 2) integers, (row, column), inside of the image.
      window: side of the square, odd.

    Returns:
      (B, P, bins), float32 or wider.
    """
    check_shapes("histograms: values (B, H, W), positions (B, P, 2) int", values, positions)
    values, sides = as_float(values), np.array(values.shape[1:])
    reach = np.arange(window) - window // 2
    square = np.stack(np.meshgrid(reach, reach, indexing="ij"), axis=-1).reshape(-1, 2)
    at = positions[:, :, None].astype(jnp.int32) + square  # (B, P, n, 2)
    inside = jnp.all((at >= 0) & (at < sides), axis=-1)
    index = jnp.clip(jnp.floor(bins * values), 0, bins - 1)
    pixels = jax.vmap(lambda each, at: each[at[..., 0], at[..., 1]])(
        index, jnp.clip(at, 0, sides - 1)
    )
    counts = jnp.sum((pixels[..., None] == jnp.arange(bins)) & inside[..., None], axis=-2)
    return counts / jnp.sum(inside, axis=-1, keepdims=True).astype(values.dtype)


@any_axes()
def hue_loss(logits: Array, targets: Array, chroma: Array) -> Array:
    """Mean over all positions of the divergence of the hue, weighted by the chroma, as the hue of a
    grey pixel means nothing; a scalar.

    Args:
      logits, targets: (..., bins), targets as `histograms` returns them.
      chroma: (...), that of the pixel at each position.
    """
    check_shapes("hue_loss: logits, targets (..., n), chroma (...)", logits, targets, chroma)
    return jnp.mean(chroma * divergence(logits, targets))


@any_axes()
def chroma_loss(logits: Array, targets: Array, grey: Array) -> Array:
    """Mean over all positions of the divergence of the chroma, weighted by `3 min(l, 1/3, 1 - l)`:
    less near black and white, which have little chroma; a scalar.

    The weight is that of gustavla/autocolorize (train_vgg16.prototxt); the TensorFlow code of the
    second paper has none.

    Args:
      logits, targets: (..., bins), targets as `histograms` returns them.
      grey: (...), l in [0, 1], the mean of R, G and B of the pixel at each position.
    """
    check_shapes("chroma_loss: logits, targets (..., n), grey (...)", logits, targets, grey)
    weight = 3 * jnp.minimum(jnp.minimum(grey, 1 / 3), 1 - grey)
    return jnp.mean(weight * divergence(logits, targets))


@any_axes(...)
def mean_hue(logits: Array) -> Array:
    """Decode logits (..., bins) of the hue: the direction of the mean of the bins' centres on the
    circle, (...) in [0, 1).
    """
    check_shapes("mean_hue: logits (..., n)", logits)
    probabilities = jax.nn.softmax(as_float(logits), axis=-1)
    bins = logits.shape[-1]
    angle = 2 * np.pi * (np.arange(bins) + 0.5) / bins
    down, across = (jnp.sum(probabilities * f(angle), axis=-1) for f in (np.sin, np.cos))
    turns = jnp.arctan2(down, across) / (2 * np.pi)
    return turns - jnp.floor(turns)


@any_axes(...)
def median_chroma(logits: Array) -> Array:
    """Decode logits (..., bins) of the chroma: the centre of the bin that holds the median, (...).

    The mean would be too grey, since chroma is bounded by 0.
    """
    check_shapes("median_chroma: logits (..., n)", logits)
    below = jnp.cumsum(jax.nn.softmax(as_float(logits), axis=-1), axis=-1) < 0.5
    return (jnp.sum(below, axis=-1) + 0.5) / logits.shape[-1]
