"""The loss of InvaSpread: invariant and spreading instance features (1904.03436)."""

import jax
import jax.numpy as jnp

from ssl_jax.losses import pairs
from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.large_batch.similarity import Similarity, log_sum_exp, sum_complements
from ssl_jax.losses.normalize import as_float, l2_normalize
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes()
def invaspread(
    z: Array,
    temperature: float | Array,
    weight: float = 1.0,
    *,
    normalize: bool = True,
    similarity: Similarity = "auto",
) -> Array:
    """Each row is classified as its example, and every other row as not it; a scalar.

    `-log P(i | i^1) - m sum_j log(1 - P(i | j))` over the 2B - 2 rows j of other examples, averaged
    over the 2B rows i, where `P(i | j) = exp(s_ij/t) / (exp(s_i,i^1/t) + m sum_k exp(s_ik/t))`. No
    gradient flows through the second row of a similarity, as in the released code (mangye16/
    Unsupervised_Embedding_Learning, BatchAverage.py), which is also the source of m.

    Args:
      z: (2B, d), example-major: rows 2i and 2i + 1 are the two views of example i.
      temperature: t > 0.
      weight: m > 0; 1 in the paper.
      normalize: s is the cosine; else the plain inner product.
      similarity: how the (2B, 2B) similarities are computed; see `losses.large_batch.similarity`.

    Raises:
      ValueError: not (2B, d); see also `losses.large_batch.similarity`.
    """
    check_shapes("invaspread: z (2B, d) with two rows per example", z)
    z = l2_normalize(z, floor="norm") if normalize else as_float(z)
    fixed, z = jax.lax.stop_gradient(z), z / temperature
    groups = pairs.examples(z)
    positive = jnp.sum(z * pairs.partner(fixed), axis=1)
    others = log_sum_exp(z, fixed, groups=groups, similarity=similarity)
    total = jnp.logaddexp(others + jnp.log(weight), positive)
    # log P is itself an inner product, with one more feature: [z, -total] . [fixed, 1].
    log_p = (
        jnp.append(z, -total[:, None], axis=1),
        jnp.pad(fixed, ((0, 0), (0, 1)), constant_values=1),
    )
    wrong = sum_complements(*log_p, groups=groups, similarity=similarity)
    return jnp.mean(total - positive + weight * wrong)
