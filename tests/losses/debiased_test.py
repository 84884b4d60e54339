"""The debiased loss against the released code, and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.debiased import debiased
from ssl_jax.losses.ntxent import ntxent
from tests.losses.forms import FORMS, check_golden, interleave, load

RUN = jax.jit(jax.value_and_grad(debiased))


class DebiasedTest(parameterized.TestCase):
    @parameterized.parameters(*((form, True) for form in FORMS), ("dense", False))
    def test_golden(self, form, wide):
        data = load("debiased_dcl", wide)
        z = interleave(data["in_z1"], data["in_z2"])
        for i, temperature in enumerate(data["hp_temperature"][: 4 if form == "dense" else 1]):
            prior = data["hp_tau_plus"][i] * data["hp_debiased"][i]
            gradient = interleave(data["grad_z1"][i], data["grad_z2"][i])
            value = data["out_loss"][i]
            check_golden(debiased, (z, temperature, prior), form, wide, value, gradient)

    def test_without_a_prior_it_is_ntxent(self):
        z = jnp.asarray(np.random.default_rng(0).normal(size=(12, 5)), jnp.float32)
        value, slope = RUN(z, 0.2, 0.0)
        expected, gradient = jax.value_and_grad(ntxent)(z, 0.2)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        np.testing.assert_allclose(slope, gradient, atol=1e-6 * np.abs(gradient).max())

    @parameterized.parameters(0.01, 0.1, 0.5)
    def test_constant_embeddings(self, prior):
        value, slope = RUN(jnp.ones((12, 5)), 0.5, prior)
        np.testing.assert_allclose(value, np.log(11), rtol=1e-5)
        self.assertTrue(np.isfinite(slope).all())

    def test_negatives_count_at_least_as_if_they_were_opposite(self):
        """The clamp: one pair against its opposite, all other cosines -1."""
        z = jnp.asarray([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
        value, _ = RUN(z, 0.5, 0.3)
        np.testing.assert_allclose(value, np.log1p(2 * np.exp(-2 / 0.5)), rtol=1e-5)

    def test_finite_where_exponentials_overflow(self):
        z = jnp.asarray(np.random.default_rng(0).normal(size=(12, 5)), jnp.float32)
        value, slope = RUN(z, 1e-3, 0.1)
        self.assertTrue(np.isfinite(value) and np.isfinite(slope).all())
        self.assertGreater(value, 100)  # the cosines' own gaps by the temperature


if __name__ == "__main__":
    absltest.main()
