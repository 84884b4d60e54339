"""Targets of self-distillation: a teacher's logits, sharpened, and centred (DINO, 2104.14294,
section 3.1) or balanced over the batch (DINOv2, 2304.07193, section 4).
"""

import jax

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float
from ssl_jax.losses.shapes import check_shapes
from ssl_jax.losses.sinkhorn import sinkhorn

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


@any_axes(...)
def balanced_probabilities(
    logits: Array, temperature: float | Array, iterations: int, valid: Array | None = None
) -> Array:
    """Targets that use all prototypes evenly over the batch, by Sinkhorn-Knopp; no gradient.

    In place of the centre of `teacher_probabilities`, and of any state.

    Args:
      logits: (..., K) of the teacher; the rows of all leading axes are balanced together.
      temperature: > 0.
      iterations: of Sinkhorn-Knopp, at least 1; see `losses.sinkhorn`.
      valid: (...) bool; rows that are False (padding) are ignored and come out as 0.

    Returns:
      (..., K) in at least float32, rows of sum 1.
    """
    check_shapes("balanced_probabilities: logits (..., K), valid (...)", logits, valid)
    rows = logits.reshape(-1, logits.shape[-1])
    valid = None if valid is None else valid.ravel()
    return sinkhorn(rows, temperature, iterations, valid=valid).reshape(logits.shape)
