"""The loss of ReSSL: relational self-supervised learning (2107.09282)."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.large_batch.similarity import Similarity, log_sum_exp
from ssl_jax.losses.normalize import as_float, l2_normalize
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes(1)
def ressl(
    student: Array,
    teacher: Array,
    queue: Array,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
    *,
    normalize: bool = True,
    similarity: Similarity = "auto",
) -> Array:
    """Cross-entropy between the teacher's and the student's similarities to the rows of a queue.

    `-sum_c softmax_c(k.c/t_k) log softmax_c(q.c/t_q)` of student q, teacher k and all rows c. No
    gradient flows into teacher and queue.

    Args:
      student, teacher: (B, d).
      queue: (K, d), used as it is.
      student_temperature, teacher_temperature: t_q > t_k > 0.
      normalize: compare unit vectors; else student and teacher as they are.
      similarity: how the (B, K) similarities are computed; see `losses.large_batch.similarity`.

    Returns:
      (B,), one value per example, in at least float32.

    Raises:
      ValueError: student and teacher not of one shape; see also `losses.large_batch.similarity`.
    """
    check_shapes("ressl: student, teacher (B, d), queue (K, d)", student, teacher, queue)
    convert = (lambda v: l2_normalize(v, floor="norm")) if normalize else as_float
    student = convert(student) / student_temperature
    teacher = convert(teacher) / teacher_temperature
    teacher, queue = jax.lax.stop_gradient((teacher, as_float(queue)))
    # The row that the teacher expects, sum_c softmax_c c, is the gradient of a log-sum-exp.
    total = lambda k: jnp.sum(log_sum_exp(k, queue, similarity=similarity))  # noqa: E731
    expected = jax.lax.stop_gradient(jax.grad(total)(teacher))
    candidates = log_sum_exp(student, queue, similarity=similarity)
    return candidates - jnp.sum(student * expected, axis=1)
