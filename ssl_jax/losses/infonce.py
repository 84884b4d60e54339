"""InfoNCE in one direction, from queries to keys: MoCo, MoCo v3, CMC, CLIP."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.large_batch.similarity import Similarity, log_sum_exp
from ssl_jax.losses.normalize import as_float, l2_normalize
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes(1)
def infonce(
    queries: Array,
    keys: Array,
    temperature: float | Array,
    negatives: Array | None = None,
    *,
    own: Array | None = None,
    normalize: bool = True,
    similarity: Similarity = "auto",
) -> Array:
    """`-s(q, k)/t + log sum_c exp(s(q, c)/t)` of each query q, its key k and its candidates c.

    Key i belongs to query i. Without `negatives` the candidates are the keys of the whole batch
    (CPC, 1807.03748, equation 4; MoCo v3, 2104.02057, equation 1). With them they are the query's
    own key and all of the negatives (MoCo, 1911.05722, equation 1). The gradient goes to all
    arguments; for constant keys, stop it outside.

    Args:
      queries, keys: (B, d).
      temperature: t > 0; an array if it is learned.
      negatives: (K, d), used as they are: with `normalize` they must already have unit length.
      own: (B, d), one further candidate of each query and of no other: a background-matched
        negative (2103.12719).
      normalize: s is the cosine; else the plain inner product.
      similarity: how the (B, B) or (B, K) similarities are computed; see
        `losses.large_batch.similarity`.

    Returns:
      (B,), one value per query, in at least float32.

    Raises:
      ValueError: queries and keys of different shapes; see also `losses.large_batch.similarity`.
    """
    check_shapes(
        "infonce: queries, keys, own (B, d), negatives (K, d)", queries, keys, own, negatives
    )
    convert = (lambda x: l2_normalize(x, floor="norm")) if normalize else as_float
    queries, keys = convert(queries), convert(keys)
    others = keys if negatives is None else as_float(negatives)
    queries = queries / temperature
    positive = jnp.sum(queries * keys, axis=1)
    gap = log_sum_exp(queries, others, similarity=similarity) - positive
    if own is not None:
        gap = jnp.logaddexp(gap, jnp.sum(queries * convert(own), axis=1) - positive)
    # With its own key beside the negatives: log(e^p + e^n) - p = log(1 + e^(n - p)).
    return gap if negatives is None else jax.nn.softplus(gap)
