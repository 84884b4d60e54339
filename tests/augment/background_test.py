"""Background augmentation: what is replaced, by what, and when."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.augment import background, recipes
from ssl_jax.augment.recipes import augment
from ssl_jax.core import config, sharding
from ssl_jax.core.chain import Background, Transform
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Inputs, View
from ssl_jax.data.pipeline import batches
from ssl_jax.data.sources import ArraySource

ROWS, SIDE = 8, 12
ALWAYS = Background("image", 1.0)
INDEX = jnp.arange(ROWS, dtype=jnp.int32) * 3
KEY = jax.random.key(0)
REPLACE = jax.jit(background.replace, static_argnums=0, static_argnames="untouched")
MATCHED = jax.jit(background.matched, static_argnums=0)
FILL = jax.jit(jax.vmap(jax.vmap(background.without_foreground)))


def crops(count=2):
    """Images of one level each, 10 (row + 1), whose foreground, a square, is 5 levels above."""
    mask = np.zeros((ROWS, count, SIDE, SIDE), np.uint8)
    mask[..., 3:9, 3:9] = 7
    images = np.full(
        (*mask.shape, 3), 10 * np.arange(1, ROWS + 1).reshape(-1, 1, 1, 1, 1), np.uint8
    )
    return images + 5 * (mask[..., None] > 0).astype(np.uint8), mask


def outside(images):
    """The one level of the background of each crop (B, n) of `replace`."""
    corner = images[..., 0, 0, 0]
    mask = crops(images.shape[1])[1]
    behind = np.where(mask[..., None] > 0, corner[..., None, None, None], images)
    np.testing.assert_array_equal(behind, np.broadcast_to(behind[..., :1, :1, :1], behind.shape))
    return np.asarray(corner)


class CompositeTest(absltest.TestCase):
    def test_a_full_mask_keeps_the_image_and_an_empty_one_shows_the_background(self):
        image, behind = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3)).astype(np.uint8)
        for level, want in ((1, image), (255, image), (0, behind)):
            mask = np.full((5, 6), level, np.uint8)
            np.testing.assert_array_equal(background.composite(image, mask, behind), want)

    def test_the_filled_foreground_leaks_nothing(self):
        """Whatever the foreground was, the background is the same, and unchanged outside."""
        draw = np.random.default_rng(0)
        image = draw.integers(0, 256, (13, 9, 3)).astype(np.uint8)
        mask = (draw.random((13, 9)) < 0.6).astype(np.uint8)
        fill = jax.jit(background.without_foreground)
        filled = fill(image, mask)
        inverted = np.where(mask[..., None] > 0, 255 - image, image)
        np.testing.assert_array_equal(fill(inverted, mask), filled)
        np.testing.assert_array_equal(np.asarray(filled)[mask == 0], image[mask == 0])
        np.testing.assert_array_equal(fill(image, 0 * mask), image)

    def test_a_plain_background_is_filled_with_itself(self):
        images, masks = crops()
        filled = FILL(images, masks)
        np.testing.assert_array_equal(outside(filled), outside(images))
        np.testing.assert_array_equal(filled[:, :, 6, 6, 0], outside(images))


class ReplaceTest(parameterized.TestCase):
    def test_the_foreground_stays_and_the_background_is_another_images(self):
        images, masks = crops()
        out = np.asarray(REPLACE(ALWAYS, KEY, INDEX, images, masks))
        np.testing.assert_array_equal(out[masks > 0], images[masks > 0])
        levels = outside(out)
        for crop in range(2):  # each crop has a partner of its own, never itself
            self.assertEqual(sorted(levels[:, crop]), sorted(outside(images)[:, crop]))
            self.assertFalse((levels[:, crop] == outside(images)[:, crop]).any())
        self.assertTrue((levels[:, 0] != levels[:, 1]).any())

    def test_grey_is_one_level_per_crop(self):
        images, masks = crops()
        out = np.asarray(REPLACE(Background("gray", 1.0), KEY, INDEX, images, masks))
        np.testing.assert_array_equal(out[masks > 0], images[masks > 0])
        self.assertGreater(len(np.unique(outside(out))), ROWS)

    def test_the_partner_depends_on_the_example_and_the_key_alone(self):
        images, masks = crops()
        order = np.random.default_rng(1).permutation(ROWS)
        out = REPLACE(ALWAYS, KEY, INDEX, images, masks)
        moved = REPLACE(ALWAYS, KEY, INDEX[order], images[order], masks[order])
        np.testing.assert_array_equal(moved, np.asarray(out)[order])
        other = REPLACE(ALWAYS, jax.random.key(1), INDEX, images, masks)
        self.assertTrue((outside(other) != outside(out)).any())

    @parameterized.parameters(2, 3, 8)
    def test_partners_are_a_permutation_without_a_fixed_point_even_for_equal_draws(self, count):
        for rank in (jnp.zeros(count), jax.random.uniform(KEY, (count,))):
            other = np.asarray(background.partners(rank, jnp.arange(count)))
            self.assertEqual(sorted(other), list(range(count)))
            self.assertFalse((other == np.arange(count)).any())
        self.assertEqual(background.partners(jnp.zeros(1), jnp.zeros(1)), 0)

    def test_a_share_of_the_crops_is_chosen_independently(self):
        images, masks = (np.tile(x, (1, 60) + (1,) * (x.ndim - 2)) for x in crops(1))
        out = REPLACE(Background("image", 0.2), KEY, INDEX, images, masks)
        changed = outside(np.asarray(out)) != outside(images)
        self.assertAlmostEqual(changed.mean(), 0.2, delta=0.07)  # 480 crops: 0.018
        self.assertGreater(len({tuple(row) for row in changed}), 1)

    def test_a_foreground_that_is_too_small_or_too_large_changes_nothing(self):
        images, masks = crops()
        share = (masks[0, 0] > 0).mean()
        for area in ((share + 0.01, 0.95), (0.05, share - 0.01)):
            how = dataclasses.replace(ALWAYS, area=area)
            np.testing.assert_array_equal(REPLACE(how, KEY, INDEX, images, masks), images)
        masks[3] = 1  # has no background to give
        out = np.asarray(REPLACE(ALWAYS, KEY, INDEX, images, masks))
        same = (out == images).all((2, 3, 4))
        np.testing.assert_array_equal(same.sum(0), 2)  # row 3, and the row whose partner it is
        self.assertTrue(same[3].all())

    def test_untouched_crops(self):
        images, masks = crops()
        out = np.asarray(REPLACE(ALWAYS, KEY, INDEX, images, masks, untouched=1))
        np.testing.assert_array_equal(out[:, 0], images[:, 0])
        self.assertTrue((out[:, 1] != images[:, 1]).any((1, 2, 3)).all())


class MatchedTest(absltest.TestCase):
    def test_the_background_is_the_querys_and_the_foreground_another_images(self):
        images, masks = crops()
        images[:, 1] += 100  # the key's crop is another one
        out = np.asarray(MATCHED(ALWAYS, KEY, INDEX, images, masks))
        np.testing.assert_array_equal(outside(out[:, None]), outside(images[:, :1]))
        front, own = out[:, 6, 6, 0], images[:, 1, 6, 6, 0]
        self.assertEqual(sorted(front), sorted(own))
        self.assertFalse((front == own).any())

    def test_without_a_mask_it_is_another_image(self):
        images, masks = crops()
        out = MATCHED(ALWAYS, KEY, INDEX, images, 0 * masks)
        self.assertEqual(sorted(out[:, 6, 6, 0]), sorted(images[:, 1, 6, 6, 0]))
        self.assertFalse((out[:, 6, 6, 0] == images[:, 1, 6, 6, 0]).any())


class AugmentTest(parameterized.TestCase):
    def batch(self):
        images, masks = crops()
        return {"views": (images,), "masks": (masks,), "index": INDEX}

    def run_chain(self, how, matched=False, **options):
        view = View(SIDE, 2, recipe=dataclasses.replace(recipes.recipe("digits"), background=how))
        inputs = Inputs((view,), masks=True, matched=matched)
        return jax.device_get(jax.jit(augment, static_argnums=0)(inputs, self.batch(), KEY))

    def test_with_probability_zero_the_views_are_bit_for_bit_those_without_it(self):
        plain, never = (self.run_chain(how) for how in (None, Background(probability=0.0)))
        np.testing.assert_array_equal(plain["views"][0], never["views"][0])
        always = self.run_chain(ALWAYS)
        self.assertGreater(np.abs(plain["views"][0] - always["views"][0]).max(), 0.01)

    def test_masks_move_as_the_replaced_view_does(self):
        images, masks = (self.run_chain(ALWAYS)[name][0] for name in ("views", "masks"))
        plain = self.run_chain(None)
        np.testing.assert_array_equal(masks, plain["masks"][0])
        inside = masks > 0
        np.testing.assert_allclose(
            images[inside].mean(), plain["views"][0][inside].mean(), atol=0.1
        )

    def test_matched_is_an_augmented_image_and_the_query_keeps_its_background(self):
        out, plain = self.run_chain(ALWAYS, matched=True), self.run_chain(None)
        self.assertEqual(out["matched"].shape, (ROWS, SIDE, SIDE, 3))
        self.assertEqual(out["matched"].dtype, np.float32)
        np.testing.assert_array_equal(out["views"][0][:, 0], plain["views"][0][:, 0])

    def test_partners_are_found_on_other_devices(self):
        images, masks = crops()
        mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:ROWS])
        rows = sharding.batch_sharding(mesh)
        for operation in (background.replace, background.matched):
            run = functools.partial(operation, ALWAYS)
            with jax.set_mesh(mesh):
                many = jax.jit(run, in_shardings=(None, rows, rows, rows))(
                    KEY, INDEX, images, masks
                )
            self.assertTrue(many.sharding.is_equivalent_to(rows, many.ndim))
            np.testing.assert_array_equal(many, run(KEY, INDEX, images, masks))

    def test_a_mask_is_cropped_with_its_image(self):
        """Crops of images whose foreground is white show white in the foreground alone."""
        draw = np.random.default_rng(0)
        masks = (draw.random((ROWS, 5, 5)) < 0.5).repeat(8, 1).repeat(8, 2).astype(np.uint8)
        images = np.where(masks[..., None] > 0, 255, 0).repeat(3, -1).astype(np.uint8)
        chain = Transform(flip=0.5, background=Background("gray", 1.0), mean=(0.0,), std=(1.0,))
        inputs = Inputs((View(40, 2, (0.3, 0.6), chain),), masks=True)
        host = next(
            batches(
                ArraySource("a", images, masks=masks),
                inputs,
                global_batch=ROWS,
                seed=0,
                stop_step=1,
            )
        )
        out = jax.device_get(augment(inputs, host, KEY))
        white = out["views"][0].min(-1) > 0.999
        shown = host["masks"][0] > 0
        self.assertBetween(shown.mean(), 0.3, 0.7)
        for row in np.ndindex(ROWS, 2):
            levels = np.unique(np.round(255 * out["views"][0][row][~white[row]]))
            self.assertGreater(len(levels), 0, row)
        np.testing.assert_array_equal(out["masks"][0][white] > 0, True)


class SettingsTest(parameterized.TestCase):
    def test_a_chain_needs_masks(self):
        view = View(8, recipe=Transform(background=Background()))
        recipes.check(Inputs((view,), masks=True))
        with self.assertRaisesRegex(UserError, "recipe.background: this method requests no masks"):
            recipes.check(Inputs((view,)))

    @parameterized.parameters(
        ({"fill": "black"}, "background.fill: .*black"),
        ({"probability": 1.5}, r"background.probability: expected a number in \[0, 1\]"),
        ({"area": (0.9, 0.1)}, "background.area: .* is reversed"),
        ({"mode": "image"}, "unknown key 'mode'"),
    )
    def test_invalid(self, values, message):
        with self.assertRaisesRegex(UserError, message):
            config.build(Transform, {"background": values}, "recipe")


if __name__ == "__main__":
    absltest.main()
