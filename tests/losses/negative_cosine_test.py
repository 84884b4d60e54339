"""BYOL's and SimSiam's losses against the released code; closed forms; unit vectors near zero."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.negative_cosine import negative_cosine, regression_loss
from ssl_jax.losses.normalize import l2_normalize

GOLDEN = Path(__file__).parents[1] / "golden"


class RegressionLossTest(absltest.TestCase):
    def test_golden(self):
        data = np.load(GOLDEN / "byol.npz")
        p1, p2, z1, z2 = (jnp.asarray(data[f"in_{k}"]) for k in ("p1", "p2", "z1", "z2"))
        np.testing.assert_allclose(regression_loss(p1, z2), data["out_reg12"], rtol=1e-5)
        np.testing.assert_allclose(regression_loss(p2, z1), data["out_reg21"], rtol=1e-5)
        loss = lambda a, b: jnp.mean(regression_loss(a, z2) + regression_loss(b, z1))  # noqa: E731
        value, grads = jax.value_and_grad(loss, (0, 1))(p1, p2)
        np.testing.assert_allclose(value, data["out_loss"], rtol=1e-5)
        for name, grad in zip(("p1", "p2"), grads, strict=True):
            expected = data[f"grad_{name}"]
            np.testing.assert_allclose(grad, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)

    def test_same_orthogonal_opposite(self):
        p = jnp.array([[3.0, 0.0], [3.0, 0.0], [3.0, 0.0]])
        z = jnp.array([[0.2, 0.0], [0.0, 5.0], [-1.0, 0.0]])
        np.testing.assert_allclose(regression_loss(p, z), [0, 2, 4], atol=1e-6)
        np.testing.assert_allclose(negative_cosine(p, z), [-1, 0, 1], atol=1e-6)

    def test_is_two_plus_twice_the_negative_cosine_and_blind_to_scale(self):
        rng = np.random.default_rng(0)
        p, z = (jnp.asarray(rng.normal(size=(2, 5, 4)), jnp.float32) for _ in range(2))
        loss = regression_loss(p, z)
        self.assertEqual(loss.shape, (2, 5))
        np.testing.assert_allclose(loss, 2 + 2 * negative_cosine(p, z), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(regression_loss(100 * p, 0.01 * z), loss, rtol=1e-5)

    def test_float64(self):
        with jax.enable_x64(True):
            self.assertEqual(regression_loss(jnp.ones((2, 3)), jnp.ones((2, 3))).dtype, jnp.float64)


class NegativeCosineTest(absltest.TestCase):
    def test_golden(self):
        data = np.load(GOLDEN / "simsiam.npz")
        p1, p2, z1, z2 = (jnp.asarray(data[f"in_{k}"]) for k in ("p1", "p2", "z1", "z2"))
        loss = lambda a, b: jnp.mean(negative_cosine(a, z2) + negative_cosine(b, z1)) / 2  # noqa: E731
        value, grads = jax.value_and_grad(loss, (0, 1))(p1, p2)
        for key in ("out_loss", "out_loss_lightly"):
            np.testing.assert_allclose(value, data[key], rtol=1e-5)
        for name, grad in zip(("p1", "p2"), grads, strict=True):
            expected = data[f"grad_{name}"]
            np.testing.assert_allclose(grad, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


class NormalizeTest(parameterized.TestCase):
    @parameterized.parameters("square", "norm")
    def test_unit_length(self, floor):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.bfloat16)
        unit = l2_normalize(x, axis=0, floor=floor)
        self.assertEqual(unit.dtype, jnp.float32)
        np.testing.assert_allclose(jnp.linalg.norm(unit, axis=0), 1.0, rtol=1e-6)

    def test_floors(self):
        x = jnp.array([3e-7, 4e-7])  # its norm is 5e-7, its squared norm 2.5e-13
        np.testing.assert_allclose(l2_normalize(x), x * 1e6, rtol=1e-5)
        np.testing.assert_allclose(l2_normalize(x, floor="norm"), [0.6, 0.8], rtol=1e-5)

    @parameterized.parameters("square", "norm")
    def test_zero_vector_is_finite(self, floor):
        value, grad = jax.value_and_grad(lambda x: l2_normalize(x, floor=floor)[0])(jnp.zeros(3))
        self.assertEqual(value, 0.0)
        self.assertTrue(bool(jnp.all(jnp.isfinite(grad))))


if __name__ == "__main__":
    absltest.main()
