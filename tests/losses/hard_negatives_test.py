"""Hard negatives against the released code, and their limits."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.debiased import debiased
from ssl_jax.losses.hard_negatives import hard_negatives
from ssl_jax.losses.normalize import l2_normalize
from tests.losses.forms import FORMS, check_golden, interleave, load

RUN = jax.jit(jax.value_and_grad(hard_negatives))


def draw(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


class HardNegativesTest(parameterized.TestCase):
    @parameterized.parameters(*((form, True) for form in FORMS), ("dense", False))
    def test_golden(self, form, wide):
        data = load("hardneg_hcl", wide)
        z = interleave(data["in_z1"], data["in_z2"])
        settings = [data[f"hp_{name}"] for name in ("temperature", "tau_plus", "beta")]
        for i, hyper in enumerate(list(zip(*settings, strict=True))[: 4 if form == "dense" else 1]):
            gradient = interleave(data["grad_z1"][i], data["grad_z2"][i])
            check_golden(hard_negatives, (z, *hyper), form, wide, data["out_loss"][i], gradient)

    def test_without_concentration_it_is_debiased(self):
        z = draw(12, 5)
        value, slope = RUN(z, 0.2, 0.1, 0.0)
        expected, gradient = jax.value_and_grad(debiased)(z, 0.2, 0.1)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        np.testing.assert_allclose(slope, gradient, atol=1e-5 * np.abs(gradient).max())

    @parameterized.parameters(0.0, 1.0, 6.0)
    def test_constant_embeddings(self, beta):
        np.testing.assert_allclose(RUN(jnp.ones((12, 5)), 0.5, 0.1, beta)[0], np.log(11), rtol=1e-5)

    def test_in_the_limit_only_the_hardest_negative_counts(self):
        z = draw(12, 5)
        cosines = np.asarray(l2_normalize(z) @ l2_normalize(z).T)
        example = np.arange(12) // 2
        others = np.where(example[:, None] == example, -np.inf, cosines).max(1)
        positive = cosines[np.arange(12), np.arange(12) ^ 1]
        expected = np.log1p(10 * np.exp((others - positive) / 0.5)).mean()
        np.testing.assert_allclose(RUN(z, 0.5, 0.0, 2000.0)[0], expected, rtol=1e-3)

    def test_a_learned_temperature_has_a_finite_gradient_at_zero_concentration(self):
        slope = jax.jit(jax.grad(hard_negatives, 1))(draw(12, 5), 0.2, 0.1, 0.0)
        expected = jax.jit(jax.grad(debiased, 1))(draw(12, 5), 0.2, 0.1)
        np.testing.assert_allclose(slope, expected, rtol=1e-4)


if __name__ == "__main__":
    absltest.main()
