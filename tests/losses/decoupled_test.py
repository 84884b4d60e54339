"""DCL and DCLW against the released code."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.decoupled import decoupled
from ssl_jax.losses.flatnce import flatnce
from tests.losses.forms import FORMS, check_golden, interleave, load


class DecoupledTest(parameterized.TestCase):
    @parameterized.product(
        name=("dcl", "dclw"), case=(*((form, True) for form in FORMS), ("dense", False))
    )
    def test_golden(self, name, case):
        data = load("decoupled_dcl", case[1])
        z = interleave(data["in_z1"], data["in_z2"])
        # The released loss is the sum of two directions, the gradient that of this sum.
        gradient = interleave(data[f"grad_{name}_z1"], data[f"grad_{name}_z2"]) / 2
        value = data[f"out_{name}_sym"] / 2
        np.testing.assert_allclose(value, data[f"out_{name}_lightly"], rtol=1e-6)
        sigma = float(data["hp_sigma"]) if name == "dclw" else None
        loss = lambda z, t, **form: decoupled(z, t, sigma, normalize=False, **form)  # noqa: E731
        # Ten times the fixture's own difference between float32 and float64: terms near 7 cancel.
        rounded = (3.7e-5, 1e-4)
        check_golden(loss, (z, data["hp_temperature"]), *case, value, gradient, rounded)

    def test_gradient_is_that_of_flatnce(self):
        z = jnp.asarray(np.random.default_rng(0).normal(size=(12, 5)), jnp.float32)
        one, two = (jax.jit(jax.grad(loss))(z, 0.2) for loss in (decoupled, flatnce))
        np.testing.assert_allclose(one, two, atol=1e-6 * np.abs(two).max())

    def test_equal_positives_have_equal_weights(self):
        z = jnp.repeat(jnp.eye(6), 2, axis=0)
        np.testing.assert_allclose(decoupled(z, 0.2, 0.5), decoupled(z, 0.2), rtol=1e-6)
        np.testing.assert_allclose(decoupled(z, 0.2), np.log(10) - 1 / 0.2, rtol=1e-6)


if __name__ == "__main__":
    absltest.main()
