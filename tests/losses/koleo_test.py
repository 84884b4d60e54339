"""KoLeo against the release of DINOv2; in tiles; closed forms."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses import nearest_neighbor as module
from ssl_jax.losses.koleo import koleo
from ssl_jax.losses.nearest_neighbor import nearest
from tests.losses.forms import load

ROWS = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)


class KoLeoTest(parameterized.TestCase):
    @parameterized.parameters((64, False), (4, True))
    def test_golden(self, tile, wide):
        data = load("koleo", wide)
        with jax.enable_x64(wide), mock.patch.object(module, "TILE", tile):
            x = jnp.asarray(data["in_x"])
            value, slope = jax.jit(jax.value_and_grad(lambda x: koleo(x)))(x)
            unit = x / jnp.linalg.norm(x, axis=1, keepdims=True)
            index = jax.jit(lambda x: nearest(x, x, others=True))(unit)
        np.testing.assert_array_equal(index, data["out_nn"])
        # The loss is near 0: rounding is relative to its terms, which are about 1.
        np.testing.assert_allclose(value, data["out_loss"], rtol=0, atol=1e-9 if wide else 1e-6)
        want = data["grad_x"]
        atol = (1e-9 if wide else 1e-4) * np.abs(want).max()
        np.testing.assert_allclose(slope, want, rtol=0, atol=atol)

    def test_groups_are_losses_of_their_own(self):
        each = [koleo(ROWS[:8]), koleo(ROWS[8:])]
        np.testing.assert_allclose(koleo(ROWS, groups=2), np.mean(each), rtol=1e-6)

    def test_closed_forms(self):
        np.testing.assert_allclose(koleo(jnp.eye(5)), -np.log(np.sqrt(2)), rtol=1e-6)
        same = koleo(jnp.ones((2, 1024)))  # 1e-8 is added to each of the coordinates
        np.testing.assert_allclose(same, -np.log(1e-8 * (np.sqrt(1024) + 1)), rtol=1e-5)

    @parameterized.parameters((1, 1), (16, 3), (16, 16))
    def test_errors(self, rows, groups):
        with self.assertRaisesRegex(ValueError, f"{groups} equal groups of two or more rows"):
            koleo(ROWS[:rows], groups)


if __name__ == "__main__":
    absltest.main()
