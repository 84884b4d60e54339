"""Self-distillation with a centred, sharpened teacher (DINO, 2104.14294, section 3.1)."""

import jax

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes(...)
def teacher_probabilities(logits: Array, center: Array, temperature: float | Array) -> Array:
    """`softmax((logits - center) / temperature)`: targets, without gradient.

    The centre keeps one prototype from dominating, the low temperature keeps the distribution from
    becoming uniform. Either one alone collapses: the centre to the uniform distribution, the
    temperature to one prototype.

    Args:
      logits: (..., K) of the teacher.
      center: broadcasts to `logits`; a running mean of such logits.
      temperature: > 0.
    """
    check_shapes("teacher_probabilities: logits (..., K)", logits)
    return jax.nn.softmax(jax.lax.stop_gradient((as_float(logits) - center) / temperature))
