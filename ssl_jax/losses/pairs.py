"""The two views of each of B examples as the rows of one array, rows 2i and 2i + 1 of example i:
what each row is compared with. Shared by the losses that contrast negatives with one positive.
"""

import jax
import jax.numpy as jnp

from ssl_jax.losses.large_batch.similarity import Similarity, log_sum_exp

Array = jax.Array


def examples(z: Array) -> Array:
    """Return the example of each row of (2B, d), (2B,) int32."""
    return jnp.arange(z.shape[0], dtype=jnp.int32) // 2


def partner(z: Array) -> Array:
    """Return the other view of each row's example, (2B, d)."""
    return z.reshape(-1, 2, z.shape[1])[:, ::-1].reshape(z.shape)


def positive(z: Array) -> Array:
    """Compute the inner product of each row with its partner, (2B,)."""
    return jnp.repeat(jnp.sum(z[0::2] * z[1::2], axis=1), 2)


def negatives(z: Array, similarity: Similarity = "auto") -> Array:
    """Compute the log-sum-exp of each row's inner products with the 2B - 2 rows of all other
    examples, (2B,); gradients flow through both sides.
    """
    return log_sum_exp(z, groups=examples(z), similarity=similarity)
