"""Diagnostics of representations with known rank, spread and distances."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.evals.protocols.diagnostics import alignment, feature_std, rankme, uniformity


def draw(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


class RankMeTest(parameterized.TestCase):
    def test_identity_has_its_size(self):
        np.testing.assert_allclose(rankme(jnp.eye(16)), 16, rtol=1e-4)

    @parameterized.parameters(1, 3)
    def test_is_at_most_the_rank(self, rank):
        value = float(rankme(draw(64, rank) @ draw(rank, 10, 1)))
        self.assertLess(value, rank + 1e-3)
        self.assertGreater(value, 0.8 * rank)

    def test_definition(self):
        features = draw(30, 7)
        sigma = np.linalg.svd(features.astype(np.float64), compute_uv=False)
        p = sigma / sigma.sum() + 1e-7
        np.testing.assert_allclose(rankme(features), np.exp(-np.sum(p * np.log(p))), rtol=1e-5)
        np.testing.assert_allclose(rankme(9 * features), rankme(features), rtol=1e-5)

    def test_nothing_is_finite(self):
        np.testing.assert_allclose(rankme(jnp.zeros((8, 4))), 1.0, rtol=1e-4)


class SphereTest(parameterized.TestCase):
    def test_feature_std(self):
        np.testing.assert_allclose(feature_std(draw(4000, 32)), 1.0, rtol=2e-2)
        np.testing.assert_allclose(feature_std(np.ones((50, 8), np.float32)), 0.0, atol=1e-6)
        one_axis = np.zeros((50, 16), np.float32)
        one_axis[:, 0] = np.where(np.arange(50) % 2, 3.0, -5.0)
        np.testing.assert_allclose(feature_std(one_axis), 16**-0.5, rtol=1e-5)

    def test_alignment(self):
        x = np.float32([[2, 0], [2, 0], [2, 0]])
        y = np.float32([[1, 0], [0, 3], [-4, 0]])
        for row, expected in enumerate((0, 2, 4)):
            value = alignment(x[row : row + 1], y[row : row + 1])
            np.testing.assert_allclose(value, expected, atol=1e-6)
        np.testing.assert_allclose(alignment(x, y), 2.0, rtol=1e-6)
        np.testing.assert_allclose(alignment(x, y, 1.0), (0 + 2**0.5 + 2) / 3, rtol=1e-6)

    @parameterized.parameters(1.0, 2.0)
    def test_uniformity(self, t):
        np.testing.assert_allclose(uniformity(jnp.ones((9, 4)), t), 0.0, atol=1e-5)
        np.testing.assert_allclose(uniformity(jnp.array([[1.0, 0], [-2, 0]]), t), -4 * t, rtol=1e-5)
        np.testing.assert_allclose(uniformity(jnp.eye(6), t), -2 * t, rtol=1e-5)

    def test_uniformity_is_the_mean_over_pairs(self):
        x = draw(12, 5)
        unit = x.astype(np.float64) / np.linalg.norm(x, axis=1, keepdims=True)
        i, j = np.triu_indices(12, 1)
        expected = np.log(np.mean(np.exp(-2 * np.sum((unit[i] - unit[j]) ** 2, axis=1))))
        np.testing.assert_allclose(uniformity(x), expected, rtol=1e-5)

    def test_rotation_and_scale_do_not_matter(self):
        x, y = draw(20, 6), draw(20, 6, 1)
        rotation = np.linalg.qr(draw(6, 6, 2))[0]
        np.testing.assert_allclose(uniformity(3 * x @ rotation), uniformity(x), rtol=1e-4)
        np.testing.assert_allclose(
            alignment(x @ rotation, 5 * y @ rotation), alignment(x, y), rtol=1e-4
        )

    def test_half_precision_features_are_measured_in_float32(self):
        x = jnp.asarray(draw(16, 8), jnp.bfloat16)
        for fn in (rankme, feature_std, uniformity, lambda x: alignment(x, x[::-1])):
            value = jax.jit(fn)(x)
            self.assertEqual(value.dtype, jnp.float32)
            np.testing.assert_allclose(value, fn(x.astype(jnp.float32)), rtol=1e-4)


if __name__ == "__main__":
    absltest.main()
