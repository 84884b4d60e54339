"""TiCo against lightly's, with its covariance."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.tico import tico
from tests.losses.forms import load


class TicoTest(parameterized.TestCase):
    @parameterized.parameters((True, 1e-9, 1e-9), (False, 1e-5, 1e-4))
    def test_golden(self, wide, rtol, atol):
        data = load("tico", wide)
        hyper = float(data["hp_tico_beta"]), float(data["hp_tico_rho"])
        with jax.enable_x64(wide):
            run = jax.jit(jax.value_and_grad(tico, has_aux=True))
            covariance = jnp.zeros(data["out_tico_C"].shape[1:], data["in_z1"].dtype)
            for step, (x, y) in enumerate(zip(data["in_z1"], data["in_z2"], strict=True)):
                # lightly's beta is the number 0.9, of which the fixture holds the float32.
                (value, covariance), slope = run(x, y, covariance, round(hyper[0], 6), hyper[1])
                np.testing.assert_allclose(value, data["out_tico_loss"][step], rtol=rtol)
                np.testing.assert_allclose(covariance, data["out_tico_C"][step], rtol=rtol)
                gradient = data["grad_tico_z1"][step]
                np.testing.assert_allclose(
                    slope, gradient, rtol=0, atol=atol * np.abs(gradient).max()
                )

    def test_no_gradient_through_the_covariance(self):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)
        slope = jax.grad(lambda c: tico(x, x, c)[0])(jnp.eye(3))
        np.testing.assert_array_equal(slope, 0)


if __name__ == "__main__":
    absltest.main()
