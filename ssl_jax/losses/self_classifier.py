"""The loss of Self-Classifier (2103.10994, equations 3 to 5): views agree on a label, with a
uniform prior over classes in place of negatives or a teacher.
"""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes()
def self_classifier(
    logits: Array,
    large: int,
    *,
    row_temperature: float = 0.1,
    column_temperature: float = 0.05,
    eps: float = 1e-12,
) -> Array:
    """Cross-entropy of every view's prediction with the target of every other view; a scalar.

    Target: a softmax of each class over the batch, each example's row then divided by its sum.
    Prediction: a softmax over the classes, each class's column divided by its sum over the batch,
    times B / C. Both depend on the whole batch and carry gradient. Identical examples give log C;
    balanced classes on which the views agree give 0.

    Args:
      logits: (B, V, C). B should be about as large as C, or the softmax over the batch means
        little.
      large: number of leading views that count as large; pairs of two other views are skipped.
      row_temperature, column_temperature: of the softmax over classes and over the batch.
      eps: added inside the logarithm, and the smallest divisor: an example that gets no weight
        from any class has no target.
    """
    check_shapes("self_classifier: logits (B, V, C)", logits)
    logits = as_float(logits)
    rows, views, classes = logits.shape
    targets = jax.nn.softmax(logits / column_temperature, axis=0)
    targets /= jnp.maximum(jnp.sum(targets, axis=-1, keepdims=True), eps)
    predictions = jax.nn.softmax(logits / row_temperature, axis=-1)
    predictions /= jnp.maximum(jnp.sum(predictions, axis=0), eps)
    log = jnp.log(rows / classes * predictions + eps)
    entropies = -jnp.einsum("bic,bjc->ij", targets, log, precision="highest") / rows
    number = jnp.arange(views)
    first, second = number[:, None], number[None, :]
    pairs = (first != second) & ((first < large) | (second < large))
    return jnp.sum(jnp.where(pairs, entropies, 0)) / jnp.sum(pairs)
