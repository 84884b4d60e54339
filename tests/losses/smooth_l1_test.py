"""Smooth L1 in closed form, and its mean over masked tokens."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.masked import masked_smooth_l1
from ssl_jax.losses.smooth_l1 import smooth_l1


class SmoothL1Test(parameterized.TestCase):
    @parameterized.parameters(
        (0.5, 1.0, 0.125), (1.0, 1.0, 0.5), (3.0, 1.0, 2.5), (3.0, 2.0, 2.0), (3.0, 0.0, 9.0)
    )
    def test_closed_form(self, distance, beta, expected):
        for sign in (1, -1):
            value = smooth_l1(jnp.full((2, 3), sign * distance), jnp.zeros((2, 3)), beta)
            np.testing.assert_allclose(value, np.full((2, 3), expected), rtol=1e-6)

    def test_the_slope_is_continuous_at_beta(self):
        slope = jax.vmap(jax.grad(lambda x: smooth_l1(x, 0.0, 0.5)))
        np.testing.assert_allclose(slope(jnp.array([0.4999, 0.5001, -4.0])), [1, 1, -1], atol=1e-3)

    def test_only_masked_tokens_count(self):
        draws = np.random.default_rng(0)
        x, y = (draws.normal(size=(2, 4, 3)).astype(np.float32) for _ in range(2))
        mask = np.array([[1, 0, 1, 0], [0, 0, 0, 1]], bool)
        slope = jax.grad(masked_smooth_l1)(jnp.asarray(x), y, mask)
        np.testing.assert_array_equal(jnp.any(slope != 0, axis=-1), mask)
        want = np.asarray(smooth_l1(x, y))[mask].mean()
        np.testing.assert_allclose(masked_smooth_l1(x, y, mask), want, rtol=1e-6)
        self.assertEqual(masked_smooth_l1(x, y, np.zeros_like(mask)), 0.0)


if __name__ == "__main__":
    absltest.main()
