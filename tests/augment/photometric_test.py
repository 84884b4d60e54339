"""Colour operations against Pillow, colorsys and SciPy."""

import colorsys
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
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

    @parameterized.product(sigma=[0.1, 0.7, 2.0], radius=[1, 3], image=[RGB, GREY])
    def test_blur(self, sigma, radius, image):
        want = [
            scipy.ndimage.gaussian_filter(c.astype(float), sigma, mode="constant", radius=radius)
            for c in image
        ]
        got = p.gaussian_blur(image, jnp.float32(sigma), radius)
        np.testing.assert_allclose(got, want, atol=1e-6)

    def test_blur_radius(self):
        self.assertEqual([p.blur_radius(s) for s in (16, 32, 96, 224)], [0, 1, 4, 11])
        self.assertIs(p.gaussian_blur(RGB, 1.0, 0), RGB)

    def test_colour_leaves_other_channel_counts_alone(self):
        for image in (GREY, np.concatenate([RGB, RGB])):
            self.assertIs(p.hue(image, 0.3), image)
            self.assertIs(p.grayscale(image), image)


class JitterTest(parameterized.TestCase):
    @parameterized.parameters("torchvision", "simclr", "byol")
    def test_every_order_of_the_four_occurs(self, kind):
        strength, amounts = (0.4, 0.4, 0.4, 0.2), np.array([0.9, 0.2, 0.95, 0.8], np.float32)
        x = np.array(strength)
        signed, factor = x * (2 * amounts - 1), 1 - x + 2 * x * amounts
        contrast = p.contrast if kind == "torchvision" else p.channel_contrast
        saturation = p.saturation if kind == "torchvision" else p.hsv_saturation
        ops = [
            (lambda im: p.adjust(im, p.added_brightness(im, signed[0])))
            if kind == "byol"
            else (lambda im: p.adjust(im, p.brightness(im, factor[0]))),
            lambda im: p.adjust(im, contrast(im, factor[1])),
            lambda im: p.adjust(im, saturation(im, factor[2])),
            lambda im: p.hue(im, signed[3]),
        ]
        draws, wanted, orders = [], [], set()
        for (o, order), ahead in itertools.product(
            enumerate(itertools.permutations(range(3))), range(4)
        ):
            order = (*order[:ahead], 3, *order[ahead:])
            orders.add(order)
            draws.append([*amounts, (o + 0.5) / 6, (ahead + 0.5) / 4])
            out = jnp.asarray(RGB)
            for i in order:
                out = ops[i](out)
            wanted.append(out)
        self.assertLen(orders, 24)
        jitter = jax.vmap(lambda d: p.color_jitter(RGB, d, strength, kind))
        got = jax.jit(jitter)(jnp.asarray(draws, jnp.float32))
        np.testing.assert_allclose(got, np.stack(wanted), atol=3e-6)
        self.assertGreater(len(np.unique(np.round(got, 4), axis=0)), 11)  # some orders commute

    def test_ranges(self):
        flat = jnp.full((1, 2, 2), 0.25, jnp.float32)
        draws = jax.random.uniform(jax.random.key(0), (4000, p.JITTER_DRAWS))

        def brightness(x, kind):
            jitter = jax.vmap(lambda d: p.color_jitter(flat, d, (x, 0.0, 0.0, 0.0), kind))
            return np.asarray(jax.jit(jitter)(draws))[:, 0, 0, 0]

        for values, low, high in (
            (brightness(0.4, "torchvision"), 0.15, 0.35),
            (brightness(1.5, "torchvision"), 0.0, 0.625),  # the factor stops at zero
            (brightness(0.2, "byol"), 0.05, 0.45),
        ):
            self.assertBetween(values.min(), low, low + 0.002)
            self.assertBetween(values.max(), high - 0.002, high)
            self.assertAlmostEqual(values.mean(), (low + high) / 2, delta=0.01)

    def test_one_channel_has_brightness_and_contrast_only(self):
        draws = jnp.full(p.JITTER_DRAWS, 0.9)
        image = jnp.asarray(GREY)
        np.testing.assert_array_equal(p.color_jitter(image, draws, (0.0, 0.0, 0.8, 0.2)), image)
        changed = p.color_jitter(image, draws, (0.4, 0.0, 0.8, 0.2))
        np.testing.assert_allclose(changed, np.minimum(1.32 * GREY, 1.0), rtol=1e-5)


if __name__ == "__main__":
    absltest.main()
