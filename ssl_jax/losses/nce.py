"""Noise-contrastive estimation: each candidate is classified as the right example or as noise."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes()
def nce(log_probs: Array, noise: float | Array, eps: float = 1e-7) -> Array:
    """Binary NCE with m negatives per example; a scalar, the mean over the examples.

    With c = m noise, m times a candidate's probability under the noise:
    `-log(p+ / (p+ + c+ + eps)) - sum_j log(c_j / (p_j + c_j + eps))` (Gutmann and Hyvarinen 2010;
    Wu et al. 2018, arXiv 1805.01978, equations 6 and 7; eps as in the released NCECriterion).

    Args:
      log_probs: (B, 1 + m), log-probabilities of the candidates under the model: first the right
        one, then m drawn from the noise. Scores minus the logarithm of a normaliser: a trained
        parameter, 0 for a model that normalises itself, or `estimate_partition`.
      noise: probability or density of a candidate under the noise: 1 / N for uniform draws of
        examples, or (B, 1 + m), one per candidate.
      eps: keeps the denominators positive.

    Raises:
      ValueError: not a matrix, or no negatives.
    """
    check_shapes("nce: log_probs (B, m)", log_probs)
    if log_probs.shape[1] < 2:
        raise ValueError(f"nce: expected shape (B, 1 + m) with m >= 1, got {log_probs.shape}")
    log_probs = as_float(log_probs)
    expected = (log_probs.shape[1] - 1) * jnp.asarray(noise, log_probs.dtype)
    total = jnp.logaddexp(log_probs, jnp.log(expected + eps))  # no score is too large for it
    right = total[:, 0] - log_probs[:, 0]
    wrong = jnp.sum((total - jnp.log(expected))[:, 1:], axis=1)
    return jnp.mean(right + wrong)


@any_axes()
def estimate_partition(scores: Array, count: int) -> Array:
    """Estimate Z = N mean(exp(score)), a scalar, from the scores of some of N candidates.

    Scores minus log Z are log-probabilities. No gradient flows through Z (1805.01978, equation 8).
    """
    return jax.lax.stop_gradient(jnp.mean(jnp.exp(as_float(scores))) * count)
