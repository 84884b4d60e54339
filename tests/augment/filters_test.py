"""Blur against SciPy, sharpness against Pillow."""

import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from absl.testing import absltest, parameterized
from PIL import Image, ImageEnhance

from ssl_jax.augment import filters as f

LEVELS = np.random.default_rng(0).integers(0, 256, (3, 9, 11)).astype(np.uint8)
RGB = LEVELS.astype(np.float32) / 255
GREY = RGB[:1]


class FiltersTest(parameterized.TestCase):
    @parameterized.product(
        sigma=[0.1, 0.7, 2.0], radius=[1, 3], image=[RGB, GREY], serial=[False, True]
    )
    def test_blur(self, sigma, radius, image, serial):
        want = [
            scipy.ndimage.gaussian_filter(c.astype(float), sigma, mode="constant", radius=radius)
            for c in image
        ]
        got = f.gaussian_blur(image, jnp.float32(sigma), radius, serial)
        np.testing.assert_allclose(got, want, atol=1e-6)

    def test_blur_radius(self):
        self.assertEqual([f.blur_radius(s) for s in (16, 32, 96, 224)], [0, 1, 4, 11])
        self.assertIs(f.gaussian_blur(RGB, 1.0, 0), RGB)

    @parameterized.parameters(0.0, 0.3, 1.0, 1.9)
    def test_sharpness(self, factor):
        picture = ImageEnhance.Sharpness(Image.fromarray(LEVELS.transpose(1, 2, 0)))
        want = np.asarray(picture.enhance(factor)).transpose(2, 0, 1) / 255
        got = f.sharpness(jnp.asarray(RGB), jnp.float32(factor))
        # Pillow rounds the smooth copy to a level, and cuts the result down to one.
        np.testing.assert_allclose(got, want, atol=2 / 255)
        np.testing.assert_allclose(np.asarray(got)[:, 0], RGB[:, 0], atol=1e-6)


if __name__ == "__main__":
    absltest.main()
