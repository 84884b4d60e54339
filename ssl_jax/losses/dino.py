"""Self-distillation with a centred, sharpened teacher (DINO, 2104.14294, section 3.1)."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float

Array = jax.Array


@any_axes(...)
def teacher_probabilities(logits: Array, center: Array, temperature: float | Array) -> Array:
    """`softmax((logits - center) / temperature)`: targets, without gradient.

    The centre keeps one prototype from winning everywhere, the low temperature keeps all from being
    alike: each alone collapses, the one to the even spread, the other to one prototype.

    Args:
      logits: (..., K) of the teacher.
      center: broadcasts to them; a running mean of such logits.
      temperature: > 0.
    """
    return jax.nn.softmax(jax.lax.stop_gradient((as_float(logits) - center) / temperature))


def teacher_temperature(
    step: Array, steps_per_epoch: int, start: float, end: float, warmup_epochs: int
) -> Array:
    """The teacher's temperature: a line from `start` in the first to `end` in the last epoch of the
    warmup, the same within an epoch, as released. A float scalar for the int scalar `step`.
    """
    epoch = step // steps_per_epoch
    line = start + (end - start) * epoch / max(warmup_epochs - 1, 1)
    return jnp.where(epoch < warmup_epochs, line, end)
