"""Operations on levels against Pillow, which works on them too."""

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image, ImageOps

from ssl_jax.augment import levels

RNG = np.random.default_rng(0)
IMAGES = {
    "uniform": RNG.integers(0, 256, (30, 41, 3)),
    "narrow": RNG.normal(90, 12, (30, 41, 3)).clip(0, 255),
    "skewed": 255 * RNG.random((30, 41, 3)) ** 3,
    "two_levels": np.where(RNG.random((30, 41, 3)) < 0.3, 17, 200),
    "flat": np.full((30, 41, 3), 77),
    "few_pixels": RNG.integers(0, 256, (6, 9, 3)),  # less than 255: Pillow's step is zero
}
IMAGES = {name: image.astype(np.uint8) for name, image in IMAGES.items()}


def planes(image):
    return jnp.asarray(image.transpose(2, 0, 1).astype(np.float32) / 255)


def pillow(f, image):
    return np.asarray(f(Image.fromarray(image))).transpose(2, 0, 1) / 255


class LevelsTest(parameterized.TestCase):
    @parameterized.product(name=sorted(IMAGES), bits=[1, 4, 8])
    def test_posterize(self, name, bits):
        want = pillow(lambda im: ImageOps.posterize(im, bits), IMAGES[name])
        got = levels.posterize(planes(IMAGES[name]), jnp.int32(bits))
        np.testing.assert_allclose(got, want, atol=1e-6)

    @parameterized.parameters(*sorted(IMAGES))
    def test_equalize(self, name):
        want = pillow(ImageOps.equalize, IMAGES[name])
        np.testing.assert_allclose(levels.equalize(planes(IMAGES[name])), want, atol=1e-6)

    @parameterized.parameters(*sorted(IMAGES))
    def test_autocontrast(self, name):
        want = pillow(ImageOps.autocontrast, IMAGES[name])
        got = np.asarray(levels.autocontrast(planes(IMAGES[name])))
        self.assertLess((got - want).max(), 1 / 255 + 1e-6)  # Pillow rounds down
        self.assertGreater((got - want).min(), -1e-6)

    @parameterized.parameters(levels.histogram, levels._products, levels._scattered)
    def test_histogram_is_exact(self, histogram):
        image = IMAGES["skewed"][..., 0].astype(np.int32)
        image[:20] = 3  # more than 256 of one level, which bfloat16 could not count
        got = histogram(jnp.asarray(image).reshape(-1))
        np.testing.assert_array_equal(got, np.bincount(image.ravel(), minlength=256))


if __name__ == "__main__":
    absltest.main()
