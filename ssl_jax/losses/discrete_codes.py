"""Parts of the loss of a discrete VAE: relaxed samples of codes, and their divergence from the
uniform prior (Ramesh et al. 2021, arXiv:2102.12092).
"""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes(...)
def gumbel_softmax(logits: Array, noise: Array, temperature: Array, hard: bool = False) -> Array:
    """Compute `softmax((logits + noise) / temperature)`: a relaxed sample of the codes' softmax
    (Jang et al. 2016, arXiv:1611.01144).

    Args:
      logits, noise: (..., K); the noise has the standard Gumbel distribution.
      temperature: scalar; the samples approach one-hot vectors as it approaches 0.
      hard: return the one-hot vector of the largest entry, with the gradient of the soft sample
        (straight-through).

    Returns:
      (..., K), rows sum to 1, float32 or wider.
    """
    check_shapes("gumbel_softmax: logits, noise (..., K)", logits, noise)
    soft = jax.nn.softmax((as_float(logits) + noise) / temperature, axis=-1)
    if not hard:
        return soft
    one_hot = jax.nn.one_hot(jnp.argmax(soft, -1), soft.shape[-1], dtype=soft.dtype)
    return soft + jax.lax.stop_gradient(one_hot - soft)


@any_axes(...)
def uniform_divergence(logits: Array) -> Array:
    """Compute `KL(softmax(logits) || uniform) = ln K - entropy` in nats: (..., K) to (...).

    lucidrains/DALLE-pytorch and BEiT's class sum this over all places of the whole batch: their
    "batchmean" divides by the size of the log-uniform argument, which is 1.
    """
    check_shapes("uniform_divergence: logits (..., K)", logits)
    log_q = jax.nn.log_softmax(as_float(logits), axis=-1)
    return jnp.sum(jnp.exp(log_q) * log_q, axis=-1) + jnp.log(logits.shape[-1])


@any_axes()
def code_usage(codes: Array, vocabulary: int) -> tuple[Array, Array]:
    """Count the codes in use, and their perplexity: exp of the entropy of their shares.

    Args:
      codes: (...) int, in [0, vocabulary).

    Returns:
      The number of distinct codes, int32, and the perplexity in [1, vocabulary], float32.
    """
    check_shapes("code_usage: codes (...) int", codes)
    counts = jnp.bincount(codes.reshape(-1), length=vocabulary)
    entropy = jnp.sum(jax.scipy.special.entr(counts / codes.size))
    return jnp.sum(counts > 0), jnp.exp(entropy)
