"""MSN's assignments in closed form; `tests/objectives/msn_test.py` has the released values."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from ssl_jax.losses.msn import log_mean_probability, sharpened

LOGITS = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2, 5)), jnp.float32)


class MSNTest(absltest.TestCase):
    def test_sharpening_is_a_power_of_the_probabilities(self):
        power = jax.nn.softmax(LOGITS) ** 4
        expected = power / jnp.sum(power, axis=-1, keepdims=True)
        np.testing.assert_allclose(sharpened(LOGITS, 0.25), expected, rtol=1e-5)

    def test_balanced_targets_use_prototypes_evenly(self):
        balanced = sharpened(LOGITS, 0.25, 200)
        np.testing.assert_allclose(balanced.sum((0, 1)), 12 / 5, rtol=1e-4)
        self.assertGreater(np.ptp(sharpened(LOGITS, 0.25).sum((0, 1))), 0.5)

    def test_targets_have_no_gradient(self):
        for iterations in (0, 3):
            slope = jax.grad(lambda x, n=iterations: jnp.sum(sharpened(x, 0.5, n)[..., 0]))(LOGITS)
            np.testing.assert_array_equal(slope, 0)

    def test_the_mean_is_exact_where_probabilities_underflow(self):
        mean = np.log(np.mean(jax.nn.softmax(LOGITS), axis=(0, 1)))
        np.testing.assert_allclose(log_mean_probability(LOGITS), mean, rtol=1e-5)
        only = log_mean_probability(200.0 * jnp.eye(5)[jnp.zeros(6, int)])
        np.testing.assert_allclose(only, [0, -200, -200, -200, -200], atol=1e-4)


if __name__ == "__main__":
    absltest.main()
