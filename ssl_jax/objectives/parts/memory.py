"""Arrays with one row per example of the data set: a bank of embeddings, pseudo-labels.

They are padded to `core.sharding.padded_rows` and, under the names "memory" and "assignments" in
`extra`, split by rows over all devices. `array[index]` reads the rows of a batch: each device looks
up those that it owns.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from ssl_jax.core.errors import UserError
from ssl_jax.core.sharding import gather_rows, padded_rows, split_columns
from ssl_jax.losses.cross_entropy import cross_entropy
from ssl_jax.losses.nce import estimate_partition, nce
from ssl_jax.losses.nonparametric_softmax import nonparametric_softmax
from ssl_jax.losses.normalize import l2_normalize

Array = jax.Array
Criterion = Literal["nce", "softmax"]


def uniform(key: Array, count: int, dim: int) -> Array:
    """Create a bank (padded_rows(count), dim), uniform in +-sqrt(3 / dim), with norms near 1."""
    bound = (3 / dim) ** 0.5
    return jax.random.uniform(key, (padded_rows(count), dim), jnp.float32, -bound, bound)


def present(count: int) -> Array:
    """Return a mask (padded_rows(count),), bool, of the rows that are not padding."""
    return jnp.arange(padded_rows(count)) < count


def write(memory: Array, index: Array, rows: Array) -> Array:
    """Return the memory with `rows` (B, ...) written at the distinct indices `index` (B,)."""
    return memory.at[index].set(rows.astype(memory.dtype), unique_indices=True)


def average(memory: Array, index: Array, rows: Array, momentum: float) -> Array:
    """Return the memory with the rows of a batch moved towards `rows` (B, dim) on the unit sphere:
    `v = l2(momentum v + (1 - momentum) row)` (Wu et al. 2018, arXiv 1805.01978).
    """
    return write(memory, index, l2_normalize(momentum * memory[index] + (1 - momentum) * rows))


def candidates(keys: Array, index: Array, negatives: int, count: int) -> Array:
    """Return rows of the memory (B, 1 + negatives): first each example's own, then `negatives`
    drawn by its key among all `count`, uniformly with replacement.
    """
    draw = lambda key: jax.random.randint(key, (negatives,), 0, count)  # noqa: E731
    return jnp.concatenate([index[:, None], jax.vmap(draw)(keys)], axis=1)


def similarities(features: Array, memory: Array, rows: Array) -> Array:
    """Compute the inner products (B, k) of features (B, dim) with the `rows` (B, k) of the memory,
    without a gradient to it. All products, then the selected ones: the memory's rows stay on their
    devices.
    """
    bank = jax.lax.stop_gradient(memory)
    products = jnp.matmul(gather_rows(features), bank.T, precision="highest")
    return jnp.take_along_axis(split_columns(products), rows, axis=1)


def contrast(
    features: Array,
    memory: Array,
    index: Array,
    rows: Array | None,
    partition: Array,
    *,
    count: int,
    temperature: float,
    criterion: Criterion,
    eps: float = 1e-7,
) -> tuple[Array, Array]:
    """Compute how badly features (B, dim) find their images in the memory, a scalar, and the
    partition constant of the NCE.

    Args:
      features, memory: unit vectors; no gradient flows into the memory.
      index: (B,) int, the right rows.
      rows: `candidates`; None compares with all `count` images (1805.01978, equation 2).
      partition: the constant, 0 before the first batch, which sets it.
      criterion: "nce" (equation 7) or the "softmax" over the candidates.
      eps: see `losses.nce`.
    """
    if rows is None:
        real = present(count)
        return nonparametric_softmax(features, memory, index, temperature, real), partition
    scores = similarities(features, memory, rows) / temperature
    if criterion == "softmax":
        return jnp.mean(cross_entropy(scores, jnp.zeros_like(index))), partition
    estimate = estimate_partition(scores, count).astype(partition.dtype)
    partition = jnp.where(partition > 0, partition, estimate)
    return nce(scores - jnp.log(partition), 1 / count, eps), partition


def check_negatives(negatives: int, count: int) -> None:
    """Raise `UserError` if there are fewer examples than negatives."""
    if negatives > count:
        raise UserError(
            f"objective.negatives: cannot draw {negatives} of {count} examples; set at most "
            f"{count}, or 0 to compare with all"
        )


def balanced_labels(key: Array, count: int, labels: int) -> Array:
    """Draw initial pseudo-labels (padded_rows(count),) int32 in [0, labels), balanced."""
    first = jax.random.permutation(key, padded_rows(count))
    return (first % labels).astype(jnp.int32)


def check_clusters(method: str, clusters: int, count: int) -> None:
    """Raise `UserError` if there are fewer examples than clusters."""
    if not 1 <= clusters <= count:
        raise UserError(
            f"objective: {method} cannot make {clusters} clusters of {count} examples; "
            f"set objective.clusters to a tenth of {count} or fewer"
        )
