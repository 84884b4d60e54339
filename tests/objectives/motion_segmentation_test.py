"""Motion segmentation: targets, what is ignored, mirrored images, errors."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from ssl_jax.core.errors import UserError
from ssl_jax.data.pipeline import batches
from ssl_jax.data.sources import ArraySource, held_out
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.motion_segmentation import intersection_over_union, make

SPEC = Spec(4, 100, 0, 10, 100)
VIEW = View(16, area=(1, 1), recipe="normalize")


class MotionSegmentationTest(absltest.TestCase):
    def method(self, **options):
        return make(resnet_small(4), SPEC, view=VIEW, grid=8, width=4, rank=8, **options)

    def batch(self, mask):
        images = np.random.default_rng(0).normal(size=(4, 1, 16, 16, 3)).astype(np.float32)
        masks = np.full((4, 1, 16, 16), mask, np.uint8)
        return {"views": (images,), "masks": (masks,), "index": np.arange(4)}

    def test_targets_are_the_pixels_in_the_centres_of_cells(self):
        masks = np.arange(4 * 16 * 16).reshape(4, 16, 16) % 256
        np.testing.assert_array_equal(self.method().targets(masks), masks[:, 1::2, 1::2])
        odd = make(resnet_small(4), SPEC, view=VIEW, grid=5)
        centres = np.array([1, 4, 8, 11, 14])
        np.testing.assert_array_equal(odd.targets(masks), masks[:, centres[:, None], centres])
        # A mirrored mask is the mask of the mirrored image.
        masks = np.repeat(masks[:, :8, :8], 2, 1).repeat(2, 2)
        np.testing.assert_array_equal(
            self.method().targets(masks[:, :, ::-1]), self.method().targets(masks)[:, :, ::-1]
        )

    def test_unknown_pixels_train_nothing(self):
        method = self.method()
        params, extra = jax.jit(method.init)(jax.random.key(0))
        loss = lambda p, b: method.loss(p, extra, b, jax.random.key(1), jnp.int32(0))[0]  # noqa: E731
        value, gradients = jax.jit(jax.value_and_grad(loss))(params, self.batch(255))
        self.assertEqual(float(value), 0)
        self.assertTrue(all(not np.any(g) for g in jax.tree.leaves(gradients)))
        value, gradients = jax.jit(jax.value_and_grad(loss))(params, self.batch(1))
        self.assertGreater(float(value), 0)
        self.assertTrue(np.any(gradients["backbone"]["stem"]["0"]["conv"]["kernel"]))

    def test_intersection_over_union_counts_known_pixels(self):
        predicted = jnp.array([True, True, False, False, True])
        ratio = intersection_over_union(predicted, jnp.array([1, 0, 1, 0, 255]))
        self.assertAlmostEqual(float(ratio), 1 / 3)

    def test_pictures(self):
        method = self.method()
        params, extra = jax.jit(method.init)(jax.random.key(0))
        images = jnp.asarray(self.batch(1)["views"][0][:, 0])
        shown = jax.jit(method.pictures)(params, extra, images, jax.random.key(0))
        (picture,) = shown.values()
        self.assertEqual(picture.images.shape, (4, 3, 16, 16, 3))
        np.testing.assert_array_equal(picture.images[:, 0], images)

    def test_bad(self):
        with self.assertRaisesRegex(UserError, "objective.grid: a mask of 17 px is larger than"):
            make(resnet_small(4), SPEC, view=VIEW, grid=17)
        images = ArraySource("a", np.zeros((8, 4, 4, 3), np.uint8))
        with self.assertRaisesRegex(UserError, "a has no masks, which this method needs"):
            batches(images, self.method().inputs(), global_batch=4, seed=0, stop_step=1)
        source = held_out("moving_digits")
        (batch,) = batches(source, self.method().inputs(), global_batch=4, seed=0, stop_step=1)
        self.assertEqual(batch["masks"][0].shape, (4, 1, 16, 16))


if __name__ == "__main__":
    absltest.main()
