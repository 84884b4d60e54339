"""Virtual adversarial training against S4L's code, and its exact direction."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.vat import adversarial_direction, divergence, entropy, unit
from tests.losses.forms import load


def network(data, dtype=float):
    flat = lambda x: x.reshape(len(x), -1)  # noqa: E731
    w1, b1, w2 = (jnp.asarray(data[f"in_{k}"], dtype) for k in ("w1", "b1", "w2"))
    return w1, lambda x, w1=w1: jnp.tanh(flat(x) @ w1 + b1) @ w2


class VatTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enter_context(jax.enable_x64(True))

    def test_released_direction_loss_and_gradient(self):
        data = load("s4l_losses", False)
        w1, f = network(data)
        x, noise = (jnp.asarray(data[f"in_{k}"], float) for k in ("x", "d0"))
        logits, epsilon = f(x), float(data["hp_vat_eps"])
        np.testing.assert_allclose(logits, data["out_vat_logits_clean"], rtol=1e-5)
        for xi, name in ((1e-6, "xi1e6"), (1e-3, "xi1e3")):
            change = epsilon * adversarial_direction(f, x, logits, noise, xi)
            theirs = data[f"f64_out_vat_perturbation_{name}"]
            np.testing.assert_allclose(change, theirs, atol=1e-5 * np.abs(theirs).max())
        value, slope = jax.value_and_grad(lambda w: divergence(f(x + change, w), logits))(w1)
        np.testing.assert_allclose(value, data["out_vat_loss_xi1e3"], rtol=1e-5)
        np.testing.assert_allclose(slope, data["grad_vat_w1_xi1e3"], atol=1e-6)

    @parameterized.parameters("float64", "float32")
    def test_the_exact_direction_has_unit_length_and_the_right_direction(self, dtype):
        data = load("s4l_losses", False)
        _, f = network(data, dtype)
        x, noise = (jnp.asarray(data[f"in_{k}"], dtype) for k in ("x", "d0"))
        exact = adversarial_direction(f, x, f(x), noise)
        np.testing.assert_allclose(jnp.sum(exact**2, (1, 2, 3)), 1, rtol=1e-5)
        theirs = unit(jnp.asarray(data["f64_out_vat_perturbation_xi1e3"]))
        self.assertGreater(jnp.sum(exact * theirs, (1, 2, 3)).min(), 0.9999)

    def test_no_change_has_no_divergence(self):
        logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
        self.assertEqual(divergence(logits, logits), 0)
        self.assertGreater(divergence(logits, logits[::-1]), 0)

    def test_entropy(self):
        data = load("s4l_losses", False)
        w1, f = network(data)
        x = jnp.asarray(data["in_x"], float)
        value, slope = jax.value_and_grad(lambda w: entropy(f(x, w)))(w1)
        np.testing.assert_allclose(value, data["out_entmin"], rtol=1e-5)
        np.testing.assert_allclose(slope, data["grad_entmin_w1"], atol=1e-6)

    def test_a_zero_vector_stays(self):
        np.testing.assert_array_equal(unit(jnp.zeros((2, 3))), 0)


if __name__ == "__main__":
    absltest.main()
