"""SIGReg against LeJEPA's released tests, and in closed form."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses import sigreg as module
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.losses.sigreg import epps_pulley, sigreg
from tests.losses.forms import load

# sum_j w_j (1 - phi_j)^2 and sum_j w_j (1 - phi_j^2) of 17 points up to 3.
OF_ZEROS, OF_NORMAL = 0.402048, 1.052464


def check(actual, expected, rtol):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=rtol * np.abs(expected).max())


class SigregTest(parameterized.TestCase):
    @parameterized.parameters((True, 1e-6), (False, 1e-5))
    def test_golden(self, wide, rtol):
        """The release stores the quadrature in float32 also in its float64 runs."""
        data = load("lejepa_sigreg", wide)
        options = {"points": int(data["hp_n_points"]), "limit": float(data["hp_t_max"])}
        with jax.enable_x64(wide):
            u, x, raw = (jnp.asarray(data[f"in_{k}"]) for k in ("u", "x", "A_raw"))
            run = jax.jit(jax.value_and_grad(lambda u: jnp.sum(epps_pulley(u, **options))))
            check(epps_pulley(u, **options), data["out_univariate"], rtol)
            check(run(u)[1], data["grad_u"], 10 * rtol)

            directions = l2_normalize(raw, axis=0)
            run = jax.jit(jax.value_and_grad(lambda x: sigreg(x, None, **options)))
            with mock.patch.object(module, "_directions", lambda *_: directions):
                value, slope = run(x)
            np.testing.assert_allclose(value, data["out_sliced_mean"], rtol=rtol)
            check(slope, data["grad_x_sliced_mean"], 10 * rtol)

    def test_zeros_are_far_by_the_number_of_rows(self):
        for rows in (4, 40):
            value = sigreg(jnp.zeros((rows, 2, 6)), jax.random.key(0), 20)
            np.testing.assert_allclose(value / rows, OF_ZEROS, rtol=1e-5)

    @parameterized.parameters(8, 64)
    def test_normal_rows_give_a_constant_for_any_batch(self, rows):
        x = jax.random.normal(jax.random.key(rows), (rows, 4000))
        # The deviation of one statistic is about its mean, so that of this mean is 1.6 %.
        np.testing.assert_allclose(jnp.mean(epps_pulley(x)), OF_NORMAL, rtol=0.06)
        self.assertGreater(jnp.mean(epps_pulley(1.5 * x)), 1.3 * OF_NORMAL)

    def test_scale_and_correlation_are_seen(self):
        """Directions have unit length, and so many of them see what no coordinate shows."""
        x = jax.random.normal(jax.random.key(0), (256, 8))
        alike = jnp.sqrt(0.5) * (x + x[:, :1])  # every coordinate but one is standard normal
        distance = jax.jit(lambda z: sigreg(z, jax.random.key(1)))
        self.assertLess(distance(x), 2)
        self.assertGreater(distance(2 * x), 10)
        self.assertGreater(distance(alike), 10)

    def test_memory_does_not_grow_with_the_points(self):
        x = jax.ShapeDtypeStruct((256, 512), jnp.float32)
        run = jax.jit(jax.grad(lambda x: jnp.sum(epps_pulley(x, points=65))))
        temporary = run.lower(x).compile().memory_analysis().temp_size_in_bytes
        self.assertLess(temporary, 12 * x.size * 4)

    def test_too_few_points(self):
        with self.assertRaisesRegex(ValueError, "at least 2 points, got 1"):
            epps_pulley(jnp.ones((4,)), points=1)


if __name__ == "__main__":
    absltest.main()
