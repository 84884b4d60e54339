"""InvaSpread against the released code, and in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.invaspread import invaspread
from tests.losses.forms import FORMS, check_golden, interleave, load


class InvaspreadTest(parameterized.TestCase):
    @parameterized.parameters(*((form, True) for form in FORMS), ("dense", False))
    def test_golden(self, form, wide):
        data = load("invaspread", wide)
        first, second = np.split(data["in_x"], 2)
        z, temperature = interleave(first, second), data["hp_temperature"]
        for i, weight in enumerate(data["hp_negM"]):
            gradient = interleave(*np.split(data["grad_x_upstream"][i], 2))
            loss = lambda z, t, weight=weight, **form: invaspread(  # noqa: E731
                z, t, float(weight), normalize=False, **form
            )
            # Upstream's own float32 is 5e-5 and 1e-4 from its float64: log(1 - P) near P = 1.
            rounded = (1e-4, 1e-3)
            value = data["out_loss"][i]
            check_golden(loss, (z, temperature), form, wide, value, gradient, rounded)

    def test_constant_embeddings(self):
        n = 16
        value, slope = jax.jit(jax.value_and_grad(invaspread))(jnp.ones((n, 5)), 0.1)
        expected = np.log(n - 1) + (n - 2) * np.log((n - 1) / (n - 2))
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        np.testing.assert_allclose(value, 3.673950, rtol=1e-5)
        self.assertTrue(np.isfinite(slope).all())

    def test_finite_where_a_negative_is_certain(self):
        """Rows 0 and 2 are twins of different examples: P = 1 for a negative."""
        z = jnp.asarray(np.random.default_rng(0).normal(size=(8, 5)), jnp.float32)
        z = z.at[2].set(z[0])
        value, slope = jax.jit(jax.value_and_grad(invaspread))(z, 1e-3)
        self.assertTrue(np.isfinite(value) and np.isfinite(slope).all())


if __name__ == "__main__":
    absltest.main()
