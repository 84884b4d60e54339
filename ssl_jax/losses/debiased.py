"""The debiased contrastive loss (2007.00224)."""

import jax
import jax.numpy as jnp

from ssl_jax.losses import pairs
from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.large_batch.similarity import Similarity
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes()
def debiased(
    z: Array,
    temperature: float | Array,
    prior: float | Array = 0.1,
    *,
    similarity: Similarity = "auto",
) -> Array:
    """NT-Xent whose negatives are corrected for those of the anchor's own class; a scalar.

    With N = 2B - 2 negatives, cosines s and the probability `prior` that a negative is of the
    anchor's class, `-log(p / (p + g))` with `p = exp(s+/t)` and
    `g = max((sum_j exp(s_j/t) - prior N p) / (1 - prior), N exp(-1/t))`, averaged over the 2B rows.

    Args:
      z: (2B, d), example-major: rows 2i and 2i + 1 are the two views of example i.
      temperature: t > 0.
      prior: in [0, 1); with 0 the loss is `ntxent`.
      similarity: how the (2B, 2B) similarities are computed; see `losses.large_batch.similarity`.

    Raises:
      ValueError: not (2B, d); see also `losses.large_batch.similarity`.
    """
    check_shapes("debiased: z (2B, d) with two rows per example", z)
    z = l2_normalize(z, floor="norm")
    z /= jnp.sqrt(jnp.asarray(temperature, z.dtype))
    positive = pairs.positive(z)
    gap = pairs.negatives(z, similarity) - positive
    return corrected(positive, gap, z.shape[0] - 2, temperature, prior)


@any_axes()
def corrected(
    positive: Array, gap: Array, count: int, temperature: float | Array, prior: float | Array
) -> Array:
    """Compute the loss from each row's positive `s+/t`, (n,), and the logarithm of its `count`
    negatives' sum less that, (n,): no exponential can overflow.
    """
    check_shapes("corrected: positive, gap (n)", positive, gap)
    prior = jnp.asarray(prior, gap.dtype)
    excess = gap - jnp.log(prior * count)  # of the negatives over those of the anchor's own class
    some = excess > 0
    excess = jnp.where(some, excess, 1)
    unbiased = gap + jnp.log(-jnp.expm1(-excess)) - jnp.log1p(-prior)
    least = jnp.log(jnp.asarray(count, gap.dtype)) - 1 / temperature - positive
    return jnp.mean(jax.nn.softplus(jnp.where(some, jnp.maximum(unbiased, least), least)))
