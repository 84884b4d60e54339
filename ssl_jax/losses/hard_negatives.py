"""The contrastive loss with hard negatives (2010.04592)."""

import jax
import jax.numpy as jnp

from ssl_jax.losses import pairs
from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.debiased import corrected
from ssl_jax.losses.large_batch.similarity import Similarity
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes()
def hard_negatives(
    z: Array,
    temperature: float | Array,
    prior: float | Array = 0.1,
    concentration: float | Array = 1.0,
    *,
    similarity: Similarity = "auto",
) -> Array:
    """`debiased` with each of the N negatives weighted by its own exponential; a scalar.

    The sum over negatives is `N sum_j w_j exp(s_j/t) / sum_j w_j` with `w_j = exp(beta s_j/t)`.
    The gradient flows through the weights too, as in the released criterion (joshr17/HCL,
    image/main.py).

    Args:
      z: (2B, d), example-major: rows 2i and 2i + 1 are the two views of example i.
      temperature: t > 0.
      prior: in [0, 1), probability that a negative is of the anchor's class.
      concentration: beta >= 0, which may change from step to step but has no gradient; with 0 the
        loss is `debiased`.
      similarity: how the (2B, 2B) similarities are computed; see `losses.large_batch.similarity`.

    Raises:
      ValueError: not (2B, d); see also `losses.large_batch.similarity`.
    """
    check_shapes("hard_negatives: z (2B, d) with two rows per example", z)
    z = l2_normalize(z, floor="norm")
    z /= jnp.sqrt(jnp.asarray(temperature, z.dtype))
    beta = jax.lax.stop_gradient(jnp.asarray(concentration, z.dtype))
    count, positive = z.shape[0] - 2, pairs.positive(z)
    weighted = pairs.negatives(z * jnp.sqrt(1 + beta), similarity)
    weights = pairs.negatives(z * jnp.sqrt(beta), similarity)
    gap = jnp.log(jnp.asarray(count, z.dtype)) + weighted - weights - positive
    return corrected(positive, gap, count, temperature, prior)
