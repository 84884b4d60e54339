"""Colour jitter: both forms against the adjustments written one after the other."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.augment import photometric as p
from ssl_jax.augment.jitter import DRAWS, color_jitter

RGB = np.random.default_rng(0).random((3, 9, 11)).astype(np.float32)
RGB[:, 0, 0], RGB[:, 0, 1], RGB[:, 0, 2] = 0.0, 1.0, 0.5  # no hue, no saturation
GREY = RGB[:1]


class JitterTest(parameterized.TestCase):
    @parameterized.product(kind=["torchvision", "simclr", "byol"], serial=[False, True])
    def test_every_order_of_the_four_occurs(self, kind, serial):
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
        draws, expected, orders = [], [], set()
        for (o, order), ahead in itertools.product(
            enumerate(itertools.permutations(range(3))), range(4)
        ):
            order = (*order[:ahead], 3, *order[ahead:])
            orders.add(order)
            draws.append([*amounts, (o + 0.5) / 6, (ahead + 0.5) / 4])
            out = jnp.asarray(RGB)
            for i in order:
                out = ops[i](out)
            expected.append(out)
        self.assertLen(orders, 24)
        jitter = jax.jit(lambda d: color_jitter(jnp.asarray(RGB), d, strength, kind, serial))
        each = functools.partial(jax.lax.map, jitter) if serial else jax.vmap(jitter)
        got = each(jnp.asarray(draws, jnp.float32))
        np.testing.assert_allclose(got, np.stack(expected), atol=3e-6)
        self.assertGreater(len(np.unique(np.round(got, 4), axis=0)), 11)  # some orders commute

    @parameterized.product(
        absent=[(0,), (1,), (2,), (3,), (0, 2), (1, 3), (2, 3), (1, 2, 3), (0, 1, 2)],
        kind=["torchvision", "simclr"],
    )
    def test_forms_agree_without_some(self, absent, kind):
        strength = tuple(0.0 if i in absent else 0.4 for i in range(4))
        draws = jax.random.uniform(jax.random.key(0), (40, DRAWS))
        image = jnp.asarray(RGB)
        batched = jax.vmap(lambda d: color_jitter(image, d, strength, kind))(draws)
        serial = jax.jit(lambda d: color_jitter(image, d, strength, kind, serial=True))
        np.testing.assert_allclose(batched, jax.lax.map(serial, draws), atol=3e-6)
        self.assertGreater(np.abs(np.asarray(batched) - RGB).max(), 0.05)

    def test_ranges(self):
        flat = jnp.full((1, 2, 2), 0.25, jnp.float32)
        draws = jax.random.uniform(jax.random.key(0), (4000, DRAWS))

        def brightness(x, kind):
            jitter = jax.vmap(lambda d: color_jitter(flat, d, (x, 0.0, 0.0, 0.0), kind))
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
        draws = jnp.full(DRAWS, 0.9)
        image = jnp.asarray(GREY)
        np.testing.assert_array_equal(color_jitter(image, draws, (0.0, 0.0, 0.8, 0.2)), image)
        changed = color_jitter(image, draws, (0.4, 0.0, 0.8, 0.2))
        np.testing.assert_allclose(changed, np.minimum(1.32 * GREY, 1.0), rtol=1e-5)


if __name__ == "__main__":
    absltest.main()
