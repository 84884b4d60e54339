"""Agreement of the pixels of two feature maps that show the same part of an image: the losses of
PixPro and PixContrast (2011.10043).
"""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array
PAIRS = "queries (B, N, D), keys (B, M, D), positives (B, N, M)"


@any_axes(1)
def pixel_consistency(queries: Array, keys: Array, positives: Array) -> Array:
    """Compute `-2 mean(cos(q, k))` over the positive pairs of each image, as PixPro's release does
    (contrast/models/PixPro.py). Equation 5 of the paper has no factor 2.

    Args:
      queries: (B, N, D), the pixels of each image's first map.
      keys: (B, M, D), those of its second map.
      positives: (B, N, M) bool, the pairs that show the same part of the image.

    Returns:
      (B,), in at least float32; 0 for an image without a positive pair.

    Raises:
      ValueError: shapes that do not fit.
    """
    check_shapes(f"pixel_consistency: {PAIRS}", queries, keys, positives)
    positives = jnp.asarray(positives, bool)
    similarities = _cosines(queries, keys)
    total = jnp.sum(jnp.where(positives, similarities, 0), (1, 2))
    return -2 * total / (jnp.sum(positives, (1, 2)) + 1e-6)


@any_axes(1)
def pixel_contrast(queries: Array, keys: Array, positives: Array, temperature: float) -> Array:
    """Compute `-log(sum_p exp(cos(q, p)/t) / sum_k exp(cos(q, k)/t))`, the mean over those pixels q
    of each image that have a positive p; k are all pixels of the image's other map (equation 2 of
    the paper).

    Arguments, result and errors are those of `pixel_consistency`; `temperature` is t > 0.
    """
    check_shapes(f"pixel_contrast: {PAIRS}", queries, keys, positives)
    positives = jnp.asarray(positives, bool)
    logits = _cosines(queries, keys) / temperature
    matched = jnp.any(positives, -1)
    # Without a positive all are taken, as the logarithm of 0 has no gradient.
    taken = jnp.where(positives | ~matched[..., None], logits, -jnp.inf)
    losses = jax.nn.logsumexp(logits, -1) - jax.nn.logsumexp(taken, -1)
    return jnp.sum(jnp.where(matched, losses, 0), -1) / jnp.maximum(jnp.sum(matched, -1), 1)


@any_axes()
def pooled_pixel_contrast(
    queries: Array, keys: Array, positives: Array, temperature: float
) -> Array:
    """Compute one `-log(sum_p / sum_k)` of all pairs of pixels of the whole batch, as in
    lucidrains/pixel-level-contrastive-learning: a scalar, where `pixel_contrast` has a mean over
    pixels.

    A pair is of one image. The arguments and errors are those of `pixel_contrast`; without any
    positive pair the loss is 0.
    """
    check_shapes(f"pooled_pixel_contrast: {PAIRS}", queries, keys, positives)
    positives = jnp.asarray(positives, bool)
    logits = _cosines(queries, keys) / temperature
    matched = jnp.any(positives)
    taken = jnp.where(positives | ~matched, logits, -jnp.inf)  # see `pixel_contrast`
    return jnp.where(matched, jax.nn.logsumexp(logits) - jax.nn.logsumexp(taken), 0)


def _cosines(queries: Array, keys: Array) -> Array:
    queries, keys = (l2_normalize(x, floor="norm") for x in (queries, keys))
    return jnp.einsum("bnd,bmd->bnm", queries, keys, precision="highest")
