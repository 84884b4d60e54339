"""Boxes: where they lie, how large they are, what is inside."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.augment import erasing

H, W, N = 20, 30, 4000
KEYS = jax.random.split(jax.random.key(0), N)


class ErasingTest(parameterized.TestCase):
    def test_inside_and_erase(self):
        image = np.random.default_rng(0).random((2, H, W)).astype(np.float32)
        box = erasing.Box(*(jnp.int32(v) for v in (3, 7, 0, 5)))
        want = image.copy()
        want[:, 3:7, 0:5] = 0.25
        np.testing.assert_array_equal(erasing.erase(jnp.asarray(image), box, 0.25), want)
        noise = np.random.default_rng(1).random(image.shape).astype(np.float32)
        want[:, 3:7, 0:5] = noise[:, 3:7, 0:5]
        np.testing.assert_array_equal(erasing.erase(jnp.asarray(image), box, noise), want)

    def test_cutout(self):
        ones = jnp.ones((1, H, W), jnp.float32)
        out = np.asarray(jax.vmap(lambda k: erasing.cutout(k, ones, 6))(KEYS))[:, 0]
        # Pixel (y, x) goes when the centre is within [y - 2, y + 3], inside of the image.
        p = np.array([min(y + 3, H - 1) - max(y - 2, 0) + 1 for y in range(H)]) / H
        q = np.array([min(x + 3, W - 1) - max(x - 2, 0) + 1 for x in range(W)]) / W
        want = np.outer(p, q)
        spread = 5 * np.sqrt(want * (1 - want) / N)
        np.testing.assert_array_less(np.abs((out == 0).mean(0) - want), spread)
        self.assertEqual((out == 0).sum((1, 2)).max(), 36)

    def test_random_box(self):
        box = jax.vmap(lambda k: erasing.random_box(k, H, W))(KEYS)
        top, bottom, left, right = (np.asarray(v) for v in box)
        h, w = bottom - top, right - left
        self.assertTrue((top >= 0).all() and (bottom <= H).all() and (h > 0).all())
        self.assertTrue((left >= 0).all() and (right <= W).all() and (h < H).all())
        # The same by the loop of the published code.
        rng, areas, ratios = np.random.default_rng(0), [], []
        for _ in range(N):
            for _ in range(10):
                area = rng.uniform(0.02, 0.33) * H * W
                aspect = np.exp(rng.uniform(np.log(0.3), np.log(3.3)))
                a, b = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
                if a < H and b < W:
                    areas.append(a * b)
                    ratios.append(np.log(a / b))
                    break
        for got, want in ((h * w, areas), (np.log(h / w), ratios)):
            error = np.std(want) * np.sqrt(2 / N)
            self.assertAlmostEqual(got.mean(), np.mean(want), delta=5 * error)
            self.assertAlmostEqual(got.std(), np.std(want), delta=5 * error)
        middle = (top / (H - h)).mean()  # uniform over the places there are
        self.assertAlmostEqual(middle, 0.5, delta=0.03)

    def test_nothing_fits(self):
        box = erasing.random_box(jax.random.key(0), 8, 8, area=(1.0, 1.0), aspect=(1.0, 1.0))
        self.assertFalse(np.asarray(erasing.inside(box, 8, 8)).any())


if __name__ == "__main__":
    absltest.main()
