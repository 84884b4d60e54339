"""Masks made from images: of plain scenes exactly, of others any; written once."""

from pathlib import Path

import cv2
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax import cli
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Inputs, View
from ssl_jax.data.foreground import foreground, write_masks
from ssl_jax.data.masks import read_mask
from ssl_jax.data.pipeline import batches
from ssl_jax.data.sources import ArraySource, open_source


def scene(height=60, width=80):
    """A red ellipse on a noisy sky and lawn, and where it is."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    image = np.where((y < height // 2)[..., None], (120, 160, 230), (60, 130, 40))
    mask = ((y - 32) / 18) ** 2 + ((x - 38) / 20) ** 2 < 1
    image = np.where(mask[..., None], (200, 30, 40), image) + draw.normal(0, 6, (height, width, 3))
    return np.clip(image, 0, 255).astype(np.uint8), mask


class ForegroundTest(parameterized.TestCase):
    def test_an_object_on_two_colours(self):
        image, mask = scene()
        made = foreground(image)
        self.assertEqual(made.dtype, np.uint8)
        self.assertEqual(set(np.unique(made)), {0, 255})
        self.assertGreater((mask & (made > 0)).sum() / (mask | (made > 0)).sum(), 0.9)
        np.testing.assert_array_equal(foreground(image), made)

    def test_a_large_image_gets_a_mask_of_its_size(self):
        image, mask = (x.repeat(8, 0).repeat(8, 1) for x in scene())
        made = foreground(image)
        self.assertEqual(made.shape, mask.shape)
        self.assertGreater((mask & (made > 0)).sum() / (mask | (made > 0)).sum(), 0.9)

    @parameterized.parameters((1, 1), (2, 9), (3, 3), (4, 5), (40, 3), (31, 17))
    def test_flat_and_tiny_images(self, *sides):
        self.assertEqual(foreground(np.full((*sides, 3), 99, np.uint8)).max(), 0)
        noise = np.random.default_rng(0).integers(0, 256, (*sides, 3)).astype(np.uint8)
        self.assertEqual(foreground(noise).shape, sides)


class WriteTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.root = Path(self.create_tempdir().full_path)
        for name in ("a/0", "a/1", "b/0"):
            path = self.root / f"images/{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), scene()[0][..., ::-1])

    def test_masks_lie_where_a_method_reads_them(self):
        folder = self.root / "masks"
        self.assertEqual(write_masks(open_source(f"folder:{self.root}/images"), folder), 0)
        np.testing.assert_array_equal(read_mask(folder / "a/1.png"), foreground(scene()[0]))
        source = open_source(f"folder:{self.root}/images")
        inputs = Inputs((View(16),), masks=True)
        batch = next(batches(source, inputs, global_batch=2, seed=0, stop_step=1))
        self.assertEqual(batch["masks"][0].shape, (2, 1, 16, 16))

    def test_existing_masks_are_kept_and_corrupt_images_have_none(self):
        (self.root / "masks/a").mkdir(parents=True)
        (self.root / "masks/a/0.png").write_bytes(b"mine")
        (self.root / "images/b/1.png").write_bytes(b"no image")
        left_out = write_masks(open_source(f"folder:{self.root}/images"), self.root / "masks")
        self.assertEqual(left_out, 1)
        self.assertEqual((self.root / "masks/a/0.png").read_bytes(), b"mine")
        self.assertTrue((self.root / "masks/b/0.png").exists())
        self.assertFalse((self.root / "masks/b/1.png").exists())

    def test_images_without_names(self):
        source = ArraySource("x", np.zeros((2, 4, 4, 3), np.uint8))
        with self.assertRaisesRegex(UserError, "the images of x have no names; use folder:/path"):
            write_masks(source, self.root / "masks")

    def test_prepare_masks_the_images_as_they_are_written(self):
        argv = [f"--data=folder:{self.root}/images", f"--masks={self.root}/m"]
        self.assertEqual(cli.run(["prepare", *argv, f"--output={self.root}/r", "--size=30"]), 0)
        self.assertEqual(read_mask(self.root / "m/a/1.png").shape, (30, 40))
        argv[1] += "2"
        self.assertEqual(cli.run(["prepare", *argv]), 0)
        self.assertEqual(read_mask(self.root / "m2/a/1.png").shape, (60, 80))
        self.assertEqual(cli.run(["prepare", *argv, "--size=30"]), 2)


if __name__ == "__main__":
    absltest.main()
