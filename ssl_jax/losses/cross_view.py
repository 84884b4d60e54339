"""Cross-entropy with soft targets from some views of an image, predicted from its other views."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes()
def cross_entropies(targets: Array, logits: Array) -> Array:
    """Cross-entropy of every view's prediction with every view's target, the mean over the batch.

        for g in range(G):                                       # the teacher's, or large, views
            for v in range(V):                                   # the student's, or all, views
                entropies[g, v] = -mean_b(sum_k(targets[b, g, k] * log_softmax(logits[b, v])[k]))

    Args:
      targets: (B, G, K), probabilities of G views.
      logits: (B, V, K) of V views, divided by their temperature.

    Returns:
      (G, V) in at least float32.
    """
    check_shapes("cross_entropies: targets (B, G, K), logits (B, V, K)", targets, logits)
    log_probs = jax.nn.log_softmax(as_float(logits), axis=-1)
    total = jnp.einsum("bgk,bvk->gv", as_float(targets), log_probs, precision="highest")
    return -total / logits.shape[0]


def mean_of_other_views(entropies: Array) -> Array:
    """Mean of a (G, V) matrix without its diagonal: no view predicts its own target.

        mean(entropies[g, v] for g in range(G) for v in range(V) if g != v)

    View g of the targets is view g of the predictions, G <= V, V > 1.
    """
    check_shapes("mean_of_other_views: entropies (G, V)", entropies)
    views, others = entropies.shape
    own = jnp.eye(views, others, dtype=bool)
    return jnp.sum(jnp.where(own, 0, entropies)) / (views * others - views)
