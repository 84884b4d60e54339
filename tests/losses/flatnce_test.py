"""FlatNCE against the released code, and the three identities of its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses import pairs
from ssl_jax.losses.flatnce import flatnce
from ssl_jax.losses.ntxent import ntxent
from tests.losses.forms import FORMS, check_golden, interleave, load


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


class FlatnceTest(parameterized.TestCase):
    @parameterized.parameters(*((form, True) for form in FORMS), ("dense", False))
    def test_golden(self, form, wide):
        data = load("flatnce", wide)
        z, gradient = (interleave(data[f"{k}z1"], data[f"{k}z2"]) for k in ("in_", "grad_"))
        np.testing.assert_allclose(data["out_loss"], data["out_ce"], rtol=1e-6)
        check_golden(flatnce, (z, data["hp_temperature"]), form, wide, data["out_loss"], gradient)

    def test_gradient_is_that_of_infonce_without_its_factor(self):
        """Per anchor: FlatNCE, the log-sum-exp of the gaps, and InfoNCE / (1 - p+) agree."""
        with jax.enable_x64(True):
            others, positive = jnp.asarray(draw(9)), jnp.asarray(0.3)

            def gap(others, positive):
                return jax.nn.logsumexp(others - positive)

            def flat(*args):
                return jnp.exp(gap(*args) - jax.lax.stop_gradient(gap(*args)))

            self.assertEqual(flat(others, positive), 1.0)
            infonce = lambda *args: jax.nn.softplus(gap(*args))  # noqa: E731
            factor = 1 / (1 - jnp.exp(-infonce(others, positive)))
            for argument in (0, 1):
                a, b, c = (jax.grad(f, argument)(others, positive) for f in (flat, gap, infonce))
                np.testing.assert_allclose(a, b, rtol=1e-12)
                np.testing.assert_allclose(a, factor * c, rtol=1e-12)

            def plus(others, positive):  # with the positive among the negatives: InfoNCE itself
                v = jax.nn.logsumexp(jnp.append(others, positive) - positive)
                return jnp.exp(v - jax.lax.stop_gradient(v))

            a, b = (jax.grad(f)(others, positive) for f in (plus, infonce))
            np.testing.assert_allclose(a, b, rtol=1e-12)

    def test_value_is_infonce_and_gradient_is_the_gaps(self):
        with jax.enable_x64(True):
            z = jnp.asarray(draw(10, 6))
            value, slope = jax.jit(jax.value_and_grad(flatnce))(z, 0.1)
            np.testing.assert_allclose(value, ntxent(z, 0.1), rtol=1e-12)

            def gaps(z):
                z = z / jnp.linalg.norm(z, axis=1, keepdims=True) / 0.1**0.5
                return jnp.mean(pairs.negatives(z) - pairs.positive(z))

            np.testing.assert_allclose(slope, jax.jit(jax.grad(gaps))(z), rtol=1e-9)

    def test_bad_shape(self):
        with self.assertRaisesRegex(ValueError, r"flatnce: expected .* two rows .* got \(3, 4\)"):
            flatnce(jnp.ones((3, 4)), 0.1)


if __name__ == "__main__":
    absltest.main()
