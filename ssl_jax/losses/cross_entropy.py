"""Softmax cross-entropy against integer labels, and against probabilities."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes(...)
def cross_entropy(logits: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
    """`-log softmax(logits)[label]` for each row, in at least float32.

    With smoothing s the target is `(1 - s) one_hot + s / C` (1512.00567, section 7).

    Args:
      logits: (..., C).
      labels: (...) integers in [0, C).
      label_smoothing: s in [0, 1).

    Returns:
      (...), one value per row.
    """
    check_shapes("cross_entropy: logits (..., C), labels (...) int", logits, labels)
    log_probs = jax.nn.log_softmax(as_float(logits), axis=-1)
    loss = -jnp.take_along_axis(log_probs, labels[..., None], axis=-1)[..., 0]
    return (1 - label_smoothing) * loss - label_smoothing * jnp.mean(log_probs, axis=-1)


@any_axes(...)
def soft_cross_entropy(logits: Array, targets: Array) -> Array:
    """`-sum_c targets_c log softmax(logits)_c` for each row, in at least float32.

    Args:
      logits: (..., C).
      targets: (..., C), probabilities; a row of zeros has loss 0.

    Returns:
      (...), one value per row.
    """
    check_shapes("soft_cross_entropy: logits, targets (..., C)", logits, targets)
    return -jnp.sum(targets * jax.nn.log_softmax(as_float(logits), axis=-1), axis=-1)


@any_axes(...)
def divergence(logits: Array, targets: Array) -> Array:
    """`KL(targets || softmax(logits))` of each row: the soft cross-entropy less the entropy of the
    targets, so that a perfect prediction has loss 0.

    Args:
      logits: (..., C).
      targets: (..., C), probabilities.

    Returns:
      (...), one value per row.
    """
    check_shapes("divergence: logits, targets (..., C)", logits, targets)
    entropy = -jnp.sum(targets * jnp.log(jnp.where(targets > 0, targets, 1)), axis=-1)
    return soft_cross_entropy(logits, targets) - entropy


@any_axes()
def labelled_mean(values: Array, labels: Array) -> Array:
    """Mean of `values` (...) over the rows whose label (...) is not -1; 0 without any label."""
    check_shapes("labelled_mean: values (...), labels (...) int", values, labels)
    share = labels >= 0
    return jnp.sum(jnp.where(share, values, 0)) / jnp.maximum(jnp.sum(share), 1)
