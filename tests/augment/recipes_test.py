import dataclasses
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ssl_jax.augment import photometric
from ssl_jax.augment.recipes import (
    RECIPES,
    Affine,
    Transform,
    apply,
    augment,
    batched,
    prepare,
    recipe,
)
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Inputs, View

SIZE = 20  # from which on there is a blur


def make_batch(size=8, channels=3, count=2, seed=0):
    rng = np.random.default_rng(seed)
    shape = (size, count, SIZE, SIZE, channels)
    index = rng.permutation(1000)[:size].astype(np.int32)
    return {"views": (rng.integers(0, 256, shape).astype(np.uint8),), "index": index}


def inputs(name, count=2, **kw):
    return Inputs((View(SIZE, count, recipe=name, **kw),))


def many(chain: Transform, image, n=2000, strength=1.0):
    """Apply `chain` to one image with `n` random draws."""
    keys = jax.random.split(jax.random.key(1), n)
    f = jax.jit(jax.vmap(lambda k: apply(chain, k, jnp.asarray(image), strength)))
    return np.asarray(f(keys))


ALL = Transform(
    0.5, Affine(0.3, 0.2, 0.2, 0.1), (0.4, 0.4, 0.2, 0.1), 0.8, "byol", 0.2, 0.5, 0.2, noise=0.1
)
PLAIN = {"mean": (0.0,), "std": (1.0,)}
IMAGE = np.random.default_rng(3).random((SIZE, SIZE, 3)).astype(np.float32)


class RecipesTest(parameterized.TestCase):
    def test_unknown_names_the_nearest(self):
        with self.assertRaisesRegex(UserError, "unknown recipe 'simclrr'; did you mean 'simclr'"):
            recipe("simclrr")
        with self.assertRaisesRegex(UserError, "known: beit, byol_1"):
            augment(inputs("zzz"), make_batch(), jax.random.key(0))

    @parameterized.product(name=sorted(RECIPES), channels=[1, 3, 5])
    def test_any_channel_count(self, name, channels):
        batch = make_batch(channels=channels)
        run = lambda: jax.eval_shape(  # noqa: E731
            lambda b, k: augment(inputs(name), b, k), batch, jax.random.key(0)
        )
        if RECIPES[name].space != "rgb" and channels != 3:
            with self.assertRaises(UserError):
                run()
            return
        out = run()
        chex.assert_shape(out["views"][0], (8, 2, SIZE, SIZE, channels))
        self.assertEqual(out["views"][0].dtype, jnp.float32)
        self.assertFalse(out["views"][0].weak_type)

    def test_all_of_it_is_finite_and_drawn_by_key_and_view(self):
        batch = make_batch()
        run = jax.jit(lambda b, k: augment(inputs("all"), b, k)["views"][0])
        with mock.patch.dict(RECIPES, all=ALL):
            first, again, other = (np.asarray(run(batch, jax.random.key(s))) for s in (0, 0, 1))
        np.testing.assert_array_equal(first, again)
        self.assertTrue(np.isfinite(first).all())
        for b in range(len(first)):
            self.assertGreater(np.abs(first[b] - other[b]).max(), 0.01)
            self.assertGreater(np.abs(first[b, 0] - first[b, 1]).max(), 0.01)

    def test_views_of_one_image_differ_and_are_keyed_by_index(self):
        batch = make_batch()
        same = np.broadcast_to(batch["views"][0][:1, :1], batch["views"][0].shape)
        (out,) = jax.jit(lambda b, k: augment(inputs("digits"), b, k)["views"])(
            batch | {"views": (same,)}, jax.random.key(0)
        )
        self.assertLen({v.tobytes() for v in np.asarray(out).reshape(16, -1)}, 16)

    def test_neither_place_nor_company_nor_devices_matter(self):
        batch = make_batch(16)
        run = jax.jit(lambda b: augment(inputs("all"), b, jax.random.key(7))["views"][0])
        mesh = Mesh(np.array(jax.devices()), ("data",))
        sharded = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
        order = np.random.default_rng(0).permutation(16)
        with mock.patch.dict(RECIPES, all=ALL):
            want = np.asarray(run(batch))
            moved = run(jax.tree.map(lambda x: x[order], batch))
            np.testing.assert_allclose(moved, want[order], atol=1e-5)
            np.testing.assert_allclose(run(sharded), want, atol=1e-5)
            text = run.lower(sharded).compile().as_text()
        self.assertNotRegex(text, "all-gather|all-reduce|all-to-all|collective-permute")

    def test_prepare_normalises(self):
        batch = make_batch()
        images = batch["views"][0][:, 0]
        got = prepare(View(SIZE, recipe="mae"), images)
        want = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        np.testing.assert_allclose(got, want, atol=1e-5)
        grey = prepare(View(SIZE, recipe="mae"), images[..., :1])
        np.testing.assert_allclose(grey, (images[..., :1] / 255 - 0.449) / 0.226, atol=1e-5)
        np.testing.assert_allclose(
            prepare(View(SIZE, recipe="simclr"), images), images / 255, rtol=1e-6
        )
        (out,) = augment(inputs("none"), batch, jax.random.key(0))["views"]
        np.testing.assert_allclose(out[:, 0], prepare(View(SIZE, recipe="none"), images), rtol=1e-6)

    def test_images_are_as_wide_as_jax_computes(self):
        """Kernels that repeat the normalisation in float32 may differ in its last bit; in float64,
        losses on 1 and 8 devices are compared beyond that.
        """
        images = make_batch()["views"][0]
        keys = jax.random.split(jax.random.key(0), images.shape[:2])
        chain = recipe("mae")
        for wide, dtype in ((False, np.float32), (True, np.float64)):
            with jax.enable_x64(wide):
                made = jax.eval_shape(lambda k: batched(chain, k, images), keys)
                ready = jax.eval_shape(lambda x: prepare(View(SIZE, recipe="mae"), x), images)
            self.assertEqual((made.dtype, ready.dtype), (dtype, dtype))

    def test_strength_zero_leaves_only_what_has_a_probability(self):
        batch = make_batch(channels=1)
        (out,) = augment(inputs("digits", strength=0.0), batch, jax.random.key(0))["views"]
        want = prepare(View(SIZE, recipe="digits"), batch["views"][0])
        np.testing.assert_allclose(out, want, atol=1e-6)

    def test_sub_batches(self):
        target = inputs("mae", count=1)
        whole = dataclasses.replace(inputs("mae"), streams=(("target", target),))
        batch = make_batch() | {"target": make_batch(count=1, seed=1)}
        out = augment(whole, batch, jax.random.key(0))
        self.assertEqual(out["target"]["views"][0].dtype, jnp.float32)
        np.testing.assert_array_equal(out["target"]["index"], batch["target"]["index"])


class ChainTest(parameterized.TestCase):
    """Each operation alone: how often it is applied, and how strongly."""

    @parameterized.named_parameters(
        ("flip", {"flip": 0.3}, 0.3, IMAGE[:, ::-1]),
        (
            "gray",
            {"gray_p": 0.2},
            0.2,
            np.repeat(IMAGE @ np.array(photometric.LUMA, np.float32)[:, None], 3, -1),
        ),
        ("solarize", {"solarize_p": 0.8}, 0.8, np.where(IMAGE < 0.5, IMAGE, 1 - IMAGE)),
    )
    def test_probability(self, options, p, changed):
        out = many(Transform(**options, **PLAIN), IMAGE)
        is_changed = np.abs(out - changed).max((1, 2, 3)) < 1e-5
        is_same = np.abs(out - IMAGE).max((1, 2, 3)) < 1e-5
        self.assertTrue((is_changed ^ is_same).all())
        self.assertAlmostEqual(is_changed.mean(), p, delta=4 * np.sqrt(p * (1 - p) / 2000))

    def test_jitter_and_blur_probability(self):
        large = np.random.default_rng(0).random((20, 20, 3)).astype(np.float32)
        for options, p in (
            ({"jitter": (0.4, 0.4, 0.4, 0.1), "jitter_p": 0.8}, 0.8),
            ({"blur_p": 0.5}, 0.5),
        ):
            out = many(Transform(**options, **PLAIN), large, 1000)
            changed = np.abs(out - large).max((1, 2, 3)) > 1e-6
            # A blur of sigma < 0.19 (5 % of them) changes nothing that float32 shows.
            self.assertAlmostEqual(changed.mean(), p, delta=0.04 + 0.05 * ("blur_p" in options))
            self.assertTrue((out >= 0).all() and (out <= 1 + 1e-6).all())

    def test_affine_ranges(self):
        dot = np.zeros((33, 33, 1), np.float32)
        dot[16, 16] = 1.0
        place = np.mgrid[:33, :33].reshape(2, -1) - 16

        def shifts(strength):
            out = many(Transform(affine=Affine(shift=0.25), **PLAIN), dot, 1000, strength)
            return out.reshape(1000, -1) @ place.T

        for strength in (1.0, 0.5):
            moved = shifts(strength)
            limit = 0.25 * 33 * strength
            self.assertLessEqual(np.abs(moved).max(), limit + 1e-3)
            self.assertGreater(np.abs(moved).max(), 0.97 * limit)
            np.testing.assert_allclose(moved.std(0), limit / np.sqrt(3), rtol=0.08)
            self.assertLess(abs(np.corrcoef(moved.T)[0, 1]), 0.12)

    def test_noise(self):
        out = many(Transform(noise=0.1, **PLAIN), np.full((8, 8, 1), 0.5, np.float32), 500, 0.5)
        self.assertAlmostEqual(out.std(), 0.05, delta=0.002)
        self.assertAlmostEqual(out.mean(), 0.5, delta=0.002)


if __name__ == "__main__":
    absltest.main()
