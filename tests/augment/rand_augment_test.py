"""RandAugment's operations against Pillow's, by which timm makes them, and how they are drawn."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image, ImageEnhance, ImageOps

from ssl_jax.augment.rand_augment import OPERATIONS, operate, rand_augment

SIZE = 32
FILL = (100, 120, 140)
# Smooth, so that interpolation of another kind at single pixels does not matter.
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE] / SIZE
WAVES = np.stack([np.sin(5 * ROWS), np.cos(4 * COLUMNS), np.sin(3 * (ROWS + COLUMNS))], -1)
PIXELS = np.round(127 + 100 * WAVES).astype(np.uint8)


def affine(*numbers):
    return lambda image: image.transform(
        image.size, Image.AFFINE, numbers, resample=Image.BILINEAR, fillcolor=FILL
    )


def added(image, amount):
    table = [min(255, i + amount) if i < 128 else i for i in range(256)]
    return image.point(table * 3)


def expected(name, level, sign):
    """Compute timm's result for `PIXELS` at magnitude 10 `level`."""
    factor = max(0.1, 1 + sign * 0.9 * level)
    shear, shift = sign * 0.3 * level, sign * 0.45 * level * SIZE
    operation = {
        "autocontrast": ImageOps.autocontrast,
        "equalize": ImageOps.equalize,
        "invert": ImageOps.invert,
        "posterize": lambda im: ImageOps.posterize(im, 4 - int(level * 4)),
        "solarize": lambda im: ImageOps.solarize(im, 256 - min(256, int(level * 256))),
        "solarize_add": lambda im: added(im, min(128, int(level * 110))),
        "color": lambda im: ImageEnhance.Color(im).enhance(factor),
        "contrast": lambda im: ImageEnhance.Contrast(im).enhance(factor),
        "brightness": lambda im: ImageEnhance.Brightness(im).enhance(factor),
        "sharpness": lambda im: ImageEnhance.Sharpness(im).enhance(factor),
        "rotate": lambda im: im.rotate(sign * 30 * level, Image.BILINEAR, fillcolor=FILL),
        "shear_x": affine(1, shear, 0, 0, 1, 0),
        "shear_y": affine(1, 0, 0, shear, 1, 0),
        "translate_x": affine(1, 0, shift, 0, 1, 0),
        "translate_y": affine(1, 0, 0, 0, 1, shift),
    }[name]
    return np.asarray(operation(Image.fromarray(PIXELS))).astype(np.float32)


PLANES = jnp.asarray(PIXELS.transpose(2, 0, 1), jnp.float32) / 255
MEAN = np.array(FILL, np.float32) / 255

OPERATE = jax.jit(operate)


class OperationsTest(parameterized.TestCase):
    @parameterized.product(name=OPERATIONS, level=[0.35, 0.9], sign=[1, -1])
    def test_equals_pillow(self, name, level, sign):
        got = OPERATE(PLANES, OPERATIONS.index(name), jnp.float32(level), jnp.float32(sign), MEAN)
        got, want = 255 * np.asarray(got).transpose(1, 2, 0), expected(name, level, sign)
        wrong = np.abs(got - want).max(-1) > 1.5  # one level and a half: Pillow rounds
        # At the border of what was moved Pillow does not blend the picture with the filling.
        moved = OPERATIONS.index(name) >= OPERATIONS.index("rotate")
        self.assertLessEqual(wrong.sum(), 2 * SIZE if moved else 0)
        if moved:
            self.assertGreater((np.abs(got - PIXELS).max(-1) > 10).mean(), 0.2)

    def test_none_is_none(self):
        got = operate(PLANES, -1, jnp.float32(0.9), jnp.float32(1), MEAN)
        np.testing.assert_array_equal(got, PLANES)


class DrawsTest(parameterized.TestCase):
    def test_a_quarter_is_left_alone_and_all_is_drawn(self):
        keys = jax.random.split(jax.random.key(0), 400)
        out = np.asarray(jax.jit(jax.vmap(lambda k: rand_augment(k, PLANES, 9.0, MEAN)))(keys))
        self.assertTrue(np.isfinite(out).all())
        self.assertBetween(out.min(), -1e-6, 1)
        self.assertLessEqual(out.max(), 1 + 1e-6)
        same = np.abs(out - PLANES).max((1, 2, 3)) < 1e-6
        self.assertBetween(same.mean(), 0.18, 0.34)
        self.assertGreater(len(np.unique(np.round(out[~same, 1, 9, 5], 4))), 60)

    def test_no_magnitude_moves_nothing_far(self):
        keys = jax.random.split(jax.random.key(1), 100)
        still = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y", "color")
        for name in still:
            got = operate(PLANES, OPERATIONS.index(name), jnp.float32(0), jnp.float32(1), MEAN)
            np.testing.assert_allclose(got, PLANES, atol=1e-5, err_msg=name)
        self.assertEqual(rand_augment(keys[0], PLANES[:1], 9.0, MEAN[:1]).shape, (1, SIZE, SIZE))


if __name__ == "__main__":
    absltest.main()
