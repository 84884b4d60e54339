"""Supervised contrastive learning (2004.11362, equations 2 and 3)."""

from typing import Literal

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.large_batch.similarity import Similarity, log_sum_exp
from ssl_jax.losses.normalize import as_float, l2_normalize
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes()
def supcon(
    z: Array,
    labels: Array,
    temperature: float | Array,
    *,
    mean: Literal["out", "in"] = "out",
    normalize: bool = True,
    similarity: Similarity = "auto",
) -> Array:
    """NT-Xent whose positives are all other rows with the anchor's label; a scalar.

    With the set P of positives of row i and its n - 1 candidates a, the mean over P stands outside
    the logarithm, `-mean_p log(exp(s_ip/t) / sum_a exp(s_ia/t))` ("out", better in the paper), or
    inside it, `-log(mean_p exp(s_ip/t) / sum_a exp(s_ia/t))` ("in"). The loss is the mean over the
    rows that have a positive. The released code multiplies it by t / 0.07.

    Args:
      z: (n, d); several views of an example are several rows with its label.
      labels: (n,) int; with each example as its own class and two views the loss is `ntxent`.
      temperature: t > 0.
      mean: where the mean over the positives is taken.
      normalize: s is the cosine; else the plain inner product.
      similarity: how the (n, n) similarities are computed; see `losses.large_batch.similarity`.
        "out" needs no positives' similarities: their sum is that with the sum of each class.

    Raises:
      ValueError: not a matrix, or not one label per row; see also `losses.large_batch.similarity`.
    """
    check_shapes("supcon: z (n, d), labels (n) int", z, labels)
    z = l2_normalize(z, floor="norm") if normalize else as_float(z)
    z /= jnp.sqrt(jnp.asarray(temperature, z.dtype))
    n = z.shape[0]
    classes = jnp.unique(labels, return_inverse=True, size=n)[1].reshape(n)
    count = jnp.bincount(classes, length=n)[classes] - 1
    some, count = count > 0, jnp.maximum(count, 1).astype(z.dtype)
    candidates = log_sum_exp(z, similarity=similarity)
    if mean == "out":
        sums = jax.ops.segment_sum(z, classes, n)[classes]
        positives = jnp.sum(z * (sums - z), axis=1) / count
    else:
        within = log_sum_exp(z, groups=classes, within=True, similarity=similarity)
        positives = jnp.where(some, within, 0) - jnp.log(count)
    return jnp.sum(jnp.where(some, candidates - positives, 0)) / jnp.maximum(jnp.sum(some), 1)
