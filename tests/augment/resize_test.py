"""Halving with a random antialiased filter."""

import jax
import numpy as np
from absl.testing import absltest

from ssl_jax.augment.resize import FILTERS, halve, matrices
from tests.nets.weights import GOLDEN


class HalveTest(absltest.TestCase):
    def test_the_filters(self):
        with np.load(GOLDEN / "learning_to_count.npz") as file:
            image, area = file["in_image"], file["out_area_D"]
        side = image.shape[1]
        down = np.asarray(matrices(side))
        np.testing.assert_allclose(down.sum(-1), 1, atol=1e-5)
        halved = np.einsum("ij,bjkc,lk->bilc", down[0], image, down[0])
        np.testing.assert_allclose(halved, area, atol=1e-5)
        # None is sub-sampling, x[::2, ::2], which aliases: the finest stripes become flat.
        stripes = np.tile([1.0, -1.0], side // 2)
        inner = (down @ stripes)[:, 2:-2]
        self.assertLess(np.abs(inner).max(), 0.1)

    def test_every_filter_is_drawn_by_the_key_alone(self):
        image = np.random.default_rng(0).normal(size=(8, 12, 3)).astype(np.float32)
        keys = jax.random.split(jax.random.key(0), 64)
        halves = np.asarray(jax.vmap(halve, (0, None))(keys, image))
        self.assertEqual(halves.shape, (64, 4, 6, 3))
        self.assertLen(np.unique(halves[:, 1, 1, 0].round(4)), len(FILTERS))
        np.testing.assert_allclose(halves[3], halve(keys[3], image), atol=1e-6)

    def test_a_flat_image_stays(self):
        flat = np.full((6, 6, 1), 0.3, np.float32)
        np.testing.assert_allclose(halve(jax.random.key(1), flat), 0.3, rtol=1e-5)

    def test_odd_sides(self):
        with self.assertRaisesRegex(ValueError, "expected an even side, got 5"):
            matrices(5)


if __name__ == "__main__":
    absltest.main()
