"""Distillation of a teacher's class probabilities (Hinton et al. 2015, 1503.02531)."""

import jax

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.cross_entropy import soft_cross_entropy
from ssl_jax.losses.normalize import as_float
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes(...)
def distillation(student: Array, teacher: Array, temperature: float | Array = 1.0) -> Array:
    """`-t^2 sum_c softmax(teacher / t)_c log softmax(student / t)_c` for each row.

    SimCLR v2 (2006.10029, equation 2); the factor t^2, which keeps the scale of the gradient, is
    that of its released code. The least value is t^2 times the teacher's entropy. The teacher gets
    no gradient.

    Args:
      student, teacher: (..., C) logits.
      temperature: t > 0.

    Returns:
      (...), one value per row, in at least float32.
    """
    check_shapes("distillation: student, teacher (..., C)", student, teacher)
    targets = jax.nn.softmax(jax.lax.stop_gradient(as_float(teacher)) / temperature, axis=-1)
    return temperature**2 * soft_cross_entropy(as_float(student) / temperature, targets)
