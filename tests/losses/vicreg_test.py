"""VICReg's terms against the released code, closed forms, invariances."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.vicreg import covariance, invariance, variance, vicreg

GOLDEN = Path(__file__).parents[1] / "golden"
LOSS = jax.jit(vicreg)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


class VicregTest(parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_golden(self, wide):
        data = np.load(GOLDEN / "vicreg.npz")
        prefix, dtype, rtol = ("f64_", np.float64, 1e-9) if wide else ("", np.float32, 1e-5)
        names = {"invariance_weight": "sim", "variance_weight": "std", "covariance_weight": "cov"}
        weights = {key: float(data[f"hp_{name}_coeff"]) for key, name in names.items()}
        with jax.enable_x64(wide):
            z1, z2 = (jnp.asarray(data[f"in_z{i}"], dtype) for i in (1, 2))
            loss = jax.jit(jax.value_and_grad(lambda a, b: vicreg(a, b, **weights), (0, 1)))
            value, grads = loss(z1, z2)
            terms = {
                "repr": invariance(z1, z2),
                "std": (variance(z1) + variance(z2)) / 2,
                "cov": covariance(z1) + covariance(z2),
            }
        np.testing.assert_allclose(value, data[f"{prefix}out_loss"], rtol=rtol)
        for name, term in terms.items():
            np.testing.assert_allclose(term, data[f"{prefix}out_{name}"], rtol=rtol)
        for i, grad in enumerate(grads, 1):
            expected = data[f"{prefix}grad_z{i}"]
            atol = 10 * rtol * np.abs(expected).max()
            np.testing.assert_allclose(grad, expected, rtol=0, atol=atol)

    def test_spread_decorrelated_and_equal_is_zero(self):
        z = jnp.linalg.qr(draw(32, 7) - jnp.mean(draw(32, 7), 0))[0][:, :6]
        z = z * jnp.sqrt(32.0)  # unbiased deviation a little above 1
        np.testing.assert_allclose(LOSS(z, z), 0, atol=1e-5)

    def test_constant_embeddings(self):
        """The variance term alone remains: 25 (1 - sqrt(eps)), with a finite gradient."""
        z = jnp.ones((8, 5))
        value, grad = jax.value_and_grad(lambda z: LOSS(z, z))(z)
        np.testing.assert_allclose(value, 25 * (1 - 0.01), rtol=1e-5)
        self.assertTrue(bool(jnp.all(jnp.isfinite(grad))))

    def test_terms(self):
        z = draw(16, 5)
        np.testing.assert_allclose(invariance(z, z + 3), 9, rtol=1e-5)
        np.testing.assert_allclose(variance(100 * z), 0)
        np.testing.assert_allclose(covariance(z + 7), covariance(z), rtol=1e-3)
        np.testing.assert_allclose(covariance(2 * z), 16 * covariance(z), rtol=1e-5)
        np.testing.assert_allclose(covariance(z[:, :1]), 0)

    def test_invariances(self):
        z1, z2 = draw(16, 5), draw(16, 5, seed=1)
        loss = LOSS(z1, z2)
        features, rows = (np.random.default_rng(2).permutation(n) for n in (5, 16))
        np.testing.assert_allclose(LOSS(z2, z1), loss, rtol=1e-5)
        np.testing.assert_allclose(LOSS(z1[:, features], z2[:, features]), loss, rtol=1e-5)
        np.testing.assert_allclose(LOSS(z1[rows], z2[rows]), loss, rtol=1e-5)
        np.testing.assert_allclose(LOSS(z1 - 2, z2 - 2), loss, rtol=1e-4)

    def test_half_precision_input(self):
        z = draw(8, 4).astype(jnp.bfloat16)
        self.assertEqual(LOSS(z, z).dtype, jnp.float32)


if __name__ == "__main__":
    absltest.main()
