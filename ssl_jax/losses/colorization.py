"""Colours as classes, and the loss of colorization (Zhang et al. 2016, 1603.08511)."""

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.cross_entropy import divergence
from ssl_jax.losses.normalize import as_float
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array

# Least and largest b of the bins with each a, from a = -90 to 100 in steps of 10: the authors'
# pts_in_hull.npy. It is not the gamut of sRGB, which has 261 bins of this size, but holds it.
_B = (
    *((50, 90), (20, 90), (0, 90), (-20, 90), (-30, 100), (-40, 100), (-50, 100), (-50, 100)),
    *((-60, 100), (-70, 100), (-80, 90), (-80, 90), (-90, 90), (-100, 90), (-100, 80)),
    *((-110, 80), (-110, 80), (-110, 70), (-110, 70), (-90, 0)),
)
BINS = np.array(
    [(10 * i - 90, b) for i, (low, high) in enumerate(_B) for b in range(low, high + 1, 10)],
    np.float32,
)  # centres (313, 2) of the bins of (a, b)


@any_axes(...)
def soft_encode(ab: Array, neighbours: int = 10, sigma: float = 5.0) -> Array:
    """Encode colours as probabilities of the nearest bins, `exp(-d^2 / 2 sigma^2)`, normalised.

    Args:
      ab: (..., 2).
      neighbours: number of bins that are not 0: 10 in the released code, 5 in the paper.
      sigma: width of the Gaussian in units of a and b.

    Returns:
      (..., 313), float32 or wider.
    """
    check_shapes("soft_encode: ab (..., 2)", ab)
    distances, nearest = jax.lax.top_k(-_squared_distances(ab), neighbours)
    # The largest is subtracted for colours that are far from all bins.
    weights = jax.nn.softmax(distances / (2 * sigma**2), axis=-1)
    bins = jnp.arange(len(BINS))
    # One term per neighbour: XLA fuses these sums, and would store a (..., neighbours, 313) array.
    parts = (
        jnp.where(bins == nearest[..., i, None], weights[..., i, None], 0)
        for i in range(neighbours)
    )
    return sum(parts, jnp.zeros((), weights.dtype))


@any_axes(...)
def nearest_bin(ab: Array) -> Array:
    """Return the index (...) of the bin nearest to each colour (..., 2)."""
    check_shapes("nearest_bin: ab (..., 2)", ab)
    return jnp.argmin(_squared_distances(ab), axis=-1)


@any_axes(...)
def annealed_mean(logits: Array, temperature: float = 0.38) -> Array:
    """Decode logits (..., 313) to colours (..., 2): the mean of the bins under
    `softmax(logits / T)`. T = 1 is the mean, which has too little colour; T -> 0 the mode.
    """
    check_shapes("annealed_mean: logits (..., 313)", logits)
    logits = as_float(logits)
    # Subtracted before the division, which would multiply the rounding of large logits.
    logits = logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    probabilities = jax.nn.softmax(logits / temperature, axis=-1)
    # Not rounded to bfloat16 on a TPU: values reach 110.
    return jnp.matmul(probabilities, BINS, precision=jax.lax.Precision.HIGHEST)


@any_axes()
def rebalancing(prior: Array, mix: float = 0.5, power: float = 1.0) -> Array:
    """Weights (313,) of the bins, larger for rare ones: `((1 - mix) prior + mix u)^-power`, scaled
    to a mean of 1 under the prior (equation 4), where u is uniform over the bins that occur. A bin
    that does not occur has the weight of one that is rare beyond measure.

    Args:
      prior: (313,), frequency of each bin in the data; it need not be normalised.
      mix: share of the uniform distribution; with 1 all weights are 1.
      power: alpha of the released code.
    """
    check_shapes("rebalancing: prior (n)", prior)
    prior = as_float(prior) / jnp.sum(prior)
    uniform = 1 / jnp.sum(prior != 0)
    weights = ((1 - mix) * prior + mix * uniform) ** -power
    return weights / jnp.sum(prior * weights)


@any_axes()
def colorization(logits: Array, target: Array, weight: Array) -> Array:
    """Sum of the divergences of all pixels of an image, averaged over the batch; a scalar.

    `1/B sum KL(target || softmax(logits))`; `weight` multiplies the gradient of a pixel, but not
    the value, as in the released code (ClassRebalanceMultLayer and SoftmaxCrossEntropyLoss).

    Args:
      logits, target: (B, h, w, 313).
      weight: (B, h, w), of each pixel.
    """
    check_shapes(
        "colorization: logits, target (B, h, w, K), weight (B, h, w)", logits, target, weight
    )
    each = divergence(logits, target)
    value = jnp.sum(each) / len(logits)
    weighted = jnp.sum(each * weight) / len(logits)
    return weighted + jax.lax.stop_gradient(value - weighted)


def _squared_distances(ab: Array) -> Array:
    a, b = jnp.split(as_float(ab), 2, axis=-1)  # written out: exact, where a product would round
    return jnp.square(a - BINS[:, 0]) + jnp.square(b - BINS[:, 1])
