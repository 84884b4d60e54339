"""Gram anchoring against its equation, in float64; what it does not depend on."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from ssl_jax.losses.gram import gram

RANDOM = np.random.default_rng(0)
STUDENT, TEACHER = RANDOM.normal(size=(3, 5, 4)), RANDOM.normal(size=(3, 5, 6))


def by_the_equation(student, teacher):
    """Return the mean over images of |X X' - Y Y'|_F^2, equation 2 of the paper."""
    total = 0.0
    for x, y in zip(student, teacher, strict=True):
        x, y = (v / np.sqrt((v**2).sum(1, keepdims=True)) for v in (x, y))
        for i in range(len(x)):
            for j in range(len(x)):
                total += (x[i] @ x[j] - y[i] @ y[j]) ** 2
    return total / len(student)


class GramTest(absltest.TestCase):
    def test_equation_and_gradient(self):
        pairs = STUDENT.shape[1] ** 2  # the loss is a mean over them
        with jax.enable_x64(True):
            both = jax.jit(jax.value_and_grad(gram))
            value, slope = jax.device_get(both(STUDENT, TEACHER))
        np.testing.assert_allclose(pairs * value, by_the_equation(STUDENT, TEACHER), rtol=1e-12)
        step = 1e-6 * RANDOM.normal(size=STUDENT.shape)
        ends = (by_the_equation(STUDENT + sign * step, TEACHER) for sign in (1, -1))
        change = (next(ends) - next(ends)) / 2
        np.testing.assert_allclose(pairs * np.sum(slope * step), change, rtol=1e-6)

    def test_lengths_and_rotations_do_not_matter(self):
        rotation, _ = np.linalg.qr(RANDOM.normal(size=(4, 4)))
        lengths = RANDOM.uniform(0.5, 2, size=(3, 5, 1))
        with jax.enable_x64(True):
            same = gram(jnp.asarray(STUDENT), jnp.asarray(lengths * (STUDENT @ rotation)))
        self.assertLess(float(same), 1e-28)

    def test_no_gradient_into_the_teacher(self):
        slope = jax.grad(gram, argnums=1)(STUDENT.astype(np.float32), TEACHER.astype(np.float32))
        np.testing.assert_array_equal(slope, 0)


if __name__ == "__main__":
    absltest.main()
