"""Colour operations against Pillow, colorsys and SciPy."""

import colorsys

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image, ImageEnhance, ImageOps

from ssl_jax.augment import photometric as p

RNG = np.random.default_rng(0)
RGB = RNG.random((3, 9, 11)).astype(np.float32)
RGB[:, 0, 0], RGB[:, 0, 1], RGB[:, 0, 2] = (
    0.0,
    1.0,
    0.5,
)  # black, white, grey: no hue, no saturation
GREY = RGB[:1]


def each_pixel(image: np.ndarray, f) -> np.ndarray:
    flat = [f(*(float(v) for v in pixel)) for pixel in image.reshape(3, -1).T]
    return np.array(flat).T.reshape(image.shape)


def pillow(image: np.ndarray, f) -> np.ndarray:
    levels = np.round(image * 255).astype(np.uint8)
    picture = f(Image.fromarray(levels.transpose(1, 2, 0)))
    return np.asarray(picture).transpose(2, 0, 1).astype(np.float32) / 255


class OpsTest(parameterized.TestCase):
    @parameterized.product(
        op=[(p.brightness, "Brightness"), (p.contrast, "Contrast"), (p.saturation, "Color")],
        factor=[0.0, 0.4, 1.0, 1.7],
    )
    def test_torchvision_ops_are_pillows(self, op, factor):
        ours, theirs = op
        image = np.round(RGB * 255) / 255
        got = p.adjust(image, ours(image, jnp.float32(factor)))
        want = pillow(image, lambda im: getattr(ImageEnhance, theirs)(im).enhance(factor))
        np.testing.assert_allclose(
            got, want, atol=2 / 255
        )  # Pillow rounds the mean, then the result

    @parameterized.parameters(0.0, 0.3, 1.0, 1.4, 30.0)
    def test_hsv_saturation(self, factor):
        def f(*rgb):
            h, s, v = colorsys.rgb_to_hsv(*rgb)
            return colorsys.hsv_to_rgb(h, min(1.0, s * factor), v)

        got = p.adjust(RGB, p.hsv_saturation(RGB, jnp.float32(factor)))
        np.testing.assert_allclose(got, each_pixel(RGB, f), atol=1e-6)

    @parameterized.parameters(-0.5, -0.2, 0.0, 0.07, 0.5, 0.9)
    def test_hue(self, turn):
        def f(*rgb):
            h, s, v = colorsys.rgb_to_hsv(*rgb)
            return colorsys.hsv_to_rgb((h + turn) % 1.0, s, v)

        got = p.hue(jnp.asarray(RGB), jnp.float32(turn))
        np.testing.assert_allclose(got, each_pixel(RGB, f), atol=3e-6)

    def test_hand_computed(self):
        x = np.array([[[0.2, 0.6]], [[0.4, 0.4]], [[0.0, 0.8]]], np.float32)
        np.testing.assert_allclose(
            p.adjust(x, p.added_brightness(x, 0.5)), np.minimum(x + 0.5, 1.0), atol=1e-6
        )
        channels = np.array([0.4, 0.4, 0.4]).reshape(3, 1, 1)
        np.testing.assert_allclose(
            p.adjust(x, p.channel_contrast(x, 0.5)), (x + channels) / 2, atol=1e-6
        )
        np.testing.assert_allclose(
            p.luminance(x),
            [[0.2989 * 0.2 + 0.587 * 0.4, 0.2989 * 0.6 + 0.587 * 0.4 + 0.114 * 0.8]],
            rtol=1e-6,
        )
        grey = p.grayscale(x)
        np.testing.assert_allclose(grey, np.broadcast_to(p.luminance(x), (3, 1, 2)))

    def test_solarize(self):
        image = np.round(RGB * 255) / 255
        np.testing.assert_allclose(p.solarize(image), pillow(image, ImageOps.solarize), atol=1e-6)

    def test_colour_leaves_other_channel_counts_alone(self):
        for image in (GREY, np.concatenate([RGB, RGB])):
            self.assertIs(p.hue(image, 0.3), image)
            self.assertIs(p.grayscale(image), image)


if __name__ == "__main__":
    absltest.main()
