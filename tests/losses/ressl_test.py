"""ReSSL against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.cross_entropy import soft_cross_entropy
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.losses.ressl import ressl
from tests.losses.forms import FORMS, value_and_grad


class ResslTest(parameterized.TestCase):
    @parameterized.parameters(*FORMS)
    def test_definition(self, similarity):
        draw = np.random.default_rng(0)
        with jax.enable_x64(True):
            student, teacher, queue = (jnp.asarray(draw.normal(size=(n, 5))) for n in (8, 8, 24))
            queue = l2_normalize(queue)

            def definition(student, teacher, queue):
                target = jax.nn.softmax(l2_normalize(teacher) @ queue.T / 0.04)
                return jnp.mean(soft_cross_entropy(l2_normalize(student) @ queue.T / 0.1, target))

            loss = lambda *args, **form: jnp.mean(ressl(*args, **form))  # noqa: E731
            value, slope = value_and_grad(loss, student, teacher, queue, similarity=similarity)
            expected, gradient = jax.value_and_grad(definition)(student, teacher, queue)
            np.testing.assert_allclose(value, expected, rtol=1e-12)
            np.testing.assert_allclose(slope, gradient, atol=1e-12, rtol=0)

    def test_no_gradient_into_teacher_and_queue(self):
        draw = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6, 4)), jnp.float32)
        slopes = jax.grad(lambda s, t, q: jnp.sum(ressl(s, t, q)), (1, 2))(*draw)
        for slope in slopes:
            np.testing.assert_array_equal(slope, 0)

    def test_shape_of_the_error(self):
        with self.assertRaisesRegex(ValueError, r"ressl: expected student, teacher \(B, d\)"):
            ressl(jnp.ones((4, 3)), jnp.ones((5, 3)), jnp.ones((6, 3)))


if __name__ == "__main__":
    absltest.main()
