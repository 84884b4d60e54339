"""Barlow Twins' loss against the released code, closed forms, invariances."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.barlow_twins import barlow_twins, cross_correlation

GOLDEN = Path(__file__).parents[1] / "golden"
LOSS = jax.jit(barlow_twins)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


class BarlowTwinsTest(parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_golden(self, wide):
        data = np.load(GOLDEN / "barlow_twins.npz")
        prefix, dtype, rtol = ("f64_", np.float64, 1e-9) if wide else ("", np.float32, 1e-5)
        with jax.enable_x64(wide):
            z = [data[f"in_z{i}"].astype(dtype) for i in (1, 2)]
            loss = jax.jit(jax.value_and_grad(barlow_twins, (0, 1)))
            value, grads = loss(*z, float(data["hp_lambd"]))
            c = jax.jit(cross_correlation)(*z)
        np.testing.assert_allclose(value, data[f"{prefix}out_loss"], rtol=rtol)
        np.testing.assert_allclose(c, data[f"{prefix}out_c"], rtol=0, atol=rtol)
        for i, grad in enumerate(grads, 1):
            expected = data[f"{prefix}grad_z{i}"]
            atol = 10 * rtol * np.abs(expected).max()
            np.testing.assert_allclose(grad, expected, rtol=0, atol=atol)

    def test_golden_of_lightly(self):
        data = np.load(GOLDEN / "barlow_twins.npz")
        value = LOSS(data["in_z1"], data["in_z2"], 5e-3)
        np.testing.assert_allclose(value, data["out_loss_lightly_lambda_5e3"], rtol=1e-5)

    def test_decorrelated_equal_opposite_and_constant(self):
        d = 6
        z = jnp.linalg.qr(draw(32, d + 1) - jnp.mean(draw(32, d + 1), 0))[0][:, :d] * 10
        np.testing.assert_allclose(LOSS(z, z), 0, atol=1e-6)
        np.testing.assert_allclose(LOSS(z, -z), 4 * d, rtol=1e-4)
        np.testing.assert_allclose(LOSS(jnp.ones((8, d)), jnp.ones((8, d))), d, rtol=1e-6)

    def test_invariances(self):
        z1, z2 = draw(16, 5), draw(16, 5, seed=1)
        loss = LOSS(z1, z2)
        scale, shift = jnp.linspace(0.5, 3.0, 5), jnp.linspace(-2.0, 2.0, 5)
        np.testing.assert_allclose(LOSS(z1 * scale + shift, z2 * scale), loss, rtol=1e-4)
        order = np.random.default_rng(2).permutation(5)
        np.testing.assert_allclose(LOSS(z1[:, order], z2[:, order]), loss, rtol=1e-5)
        np.testing.assert_allclose(LOSS(z2, z1), loss, rtol=1e-5)
        rows = np.random.default_rng(3).permutation(16)
        np.testing.assert_allclose(LOSS(z1[rows], z2[rows]), loss, rtol=1e-5)
        self.assertGreater(float(jnp.abs(LOSS(z1[:, order], z2) - loss)), 0.01)

    def test_types_and_constant_features(self):
        z = draw(8, 4).astype(jnp.bfloat16)
        self.assertEqual(LOSS(z, z).dtype, jnp.float32)
        grad = jax.grad(lambda z: LOSS(z, z))(jnp.ones((8, 4)))
        self.assertTrue(bool(jnp.all(jnp.isfinite(grad))))


if __name__ == "__main__":
    absltest.main()
