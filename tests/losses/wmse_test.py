"""W-MSE: whitened sub-batches, invariances and bad sizes."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.wmse import whiten, wmse


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


class WmseTest(parameterized.TestCase):
    def test_whitened_rows_have_mean_zero_and_covariance_one(self):
        x = draw(64, 5) @ draw(5, 5, seed=1) + 3
        y = np.asarray(whiten(x))
        np.testing.assert_allclose(y.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(np.cov(y.T), np.eye(5), atol=1e-4)

    def test_equal_views_have_no_loss_and_none_collapses(self):
        x, y = draw(16, 3), draw(16, 3, seed=1)
        np.testing.assert_allclose(wmse(x, 2 * x + 1, 8), 0, atol=1e-5)
        self.assertGreater(float(wmse(x, y, 8)), 0.5)
        slope = jax.jit(jax.grad(wmse), static_argnums=2)(x, y, 8)
        # Whitening removes scale and shift: the loss cannot fall by either.
        np.testing.assert_allclose(jnp.sum(slope.reshape(2, 8, 3), 1), 0, atol=1e-5)
        np.testing.assert_allclose(jnp.sum(slope * (x - 0)), 0, atol=1e-4)

    def test_sub_batches_are_apart(self):
        x, y = draw(16, 3), draw(16, 3, seed=1)
        halves = [wmse(x[i : i + 8], y[i : i + 8], 8) for i in (0, 8)]
        np.testing.assert_allclose(wmse(x, y, 8), np.mean(halves), rtol=1e-5)

    @parameterized.parameters(5, 3, 32)
    def test_bad_size(self, size):
        with self.assertRaisesRegex(ValueError, f"size that divides 16 .* 3, got {size}"):
            wmse(draw(16, 3), draw(16, 3), size)


if __name__ == "__main__":
    absltest.main()
