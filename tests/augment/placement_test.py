"""Placements of views, read back from images whose pixels are their own positions."""

from pathlib import Path

import jax
import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from ssl_jax.augment import recipes
from ssl_jax.augment.crop import take_views
from ssl_jax.augment.recipes import augment
from ssl_jax.core.chain import Affine, Transform
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Inputs, View
from ssl_jax.data.pipeline import batches
from ssl_jax.data.sources import ArraySource, open_source

HEIGHT, WIDTH, EXAMPLES = 90, 130, 8
BARE = {"mean": (0.0,), "std": (1.0,)}
WARP = Affine(rotation=0.6, log_scale=0.3, shear=0.3, shift=0.2)
VIEWS = (
    View((24, 40), 4, (0.2, 1.0), Transform(flip=0.5, affine=WARP, **BARE), strength=0.8),
    View(32, 3, (0.1, 0.5), Transform(flip=0.5, **BARE), interpolation="bicubic"),
    View((30, 20), 2, (1.0, 1.0), Transform(affine=WARP, **BARE)),
    View(28, 1, (1.0, 1.0), "none"),
    View(16, 2, (0.05, 0.2), Transform(flip=1.0, affine=WARP, **BARE), crop="one_draw"),
)


def image() -> np.ndarray:
    """Red is the position across, green down; blue is 255, so that padding can be told."""
    y, x = (np.mgrid[:HEIGHT, :WIDTH].astype(np.float32) + 0.5) / np.array([HEIGHT, WIDTH]).reshape(
        2, 1, 1
    )
    return np.round(255 * np.stack([x, y, np.ones_like(x)], -1)).astype(np.uint8)


def mask() -> np.ndarray:
    """The quarter of the image, 1 to 4."""
    across, down = (image()[..., axis] > 127 for axis in (0, 1))
    return (1 + down + 2 * across).astype(np.uint8)


class PlacementTest(parameterized.TestCase):
    def source(self, kind):
        if kind in ("memory", "device"):
            repeat = lambda x: np.stack([x] * EXAMPLES)  # noqa: E731
            return ArraySource("a", repeat(image()), masks=repeat(mask()))
        root = Path(self.create_tempdir().full_path)
        pixels = np.kron(image(), np.ones((4, 4, 1), np.uint8)) if kind == "jpg" else image()
        for folder in ("images/a", "masks/a"):
            (root / folder).mkdir(parents=True)
        for i in range(EXAMPLES):
            Image.fromarray(pixels).save(root / f"images/a/{i}.{kind}", quality=95)
            Image.fromarray(mask()).save(root / f"masks/a/{i}.png")
        return open_source(f"folder:{root}/images")

    @parameterized.parameters("memory", "png", "jpg", "device")
    def test_a_view_shows_the_place_that_its_placement_names(self, kind):
        source = self.source(kind)
        inputs = Inputs(VIEWS, placement=True, masks=kind in ("memory", "png"))
        options = {"global_batch": EXAMPLES, "seed": 1, "stop_step": 1}
        host = batches(source, inputs, boxes_only=kind == "device", **options)
        batch = next(host)
        if kind == "device":
            batch = jax.jit(take_views, static_argnums=0)(inputs, host.sets(), batch)
        made = jax.device_get(jax.jit(augment, static_argnums=0)(inputs, batch, jax.random.key(0)))
        for g, view in enumerate(VIEWS):
            with self.subTest(g):
                quarters = made["masks"][g] if inputs.masks else None
                self.check(view, made["views"][g], made["placement"][g], quarters)

    def check(self, view, images, placement, quarters):
        height, width = view.sides
        y, x = np.mgrid[:height, :width] + 0.5
        place = np.stack([y / height, x / width, np.ones((height, width))])
        want = np.einsum("bnij,jyx->bnyxi", placement, place)
        shown = images[..., :2][..., ::-1]  # (y, x)
        inside = images[..., 2] > 0.999
        self.assertGreater(inside.mean(), 0.4)
        error = (shown - want)[inside]
        # Half a pixel of the image where an enlarged crop ends, and the rounding of the levels.
        self.assertLess(np.abs(error).max(), 0.5 / HEIGHT + 2 / 255)
        # OpenCV's rounding; half a pixel of the image would be 0.98 levels across, 1.4 down.
        self.assertLess(np.abs(error.mean(0)).max(), 0.6 / 255)
        if quarters is not None:
            clear = inside & (np.abs(shown - 0.5).min(-1) > 0.02)
            down, across = np.moveaxis(shown > 0.5, -1, 0)
            np.testing.assert_array_equal(quarters[clear], (1 + down + 2 * across)[clear])
            outside = images[..., 2] < 0.001
            self.assertEqual(quarters[outside].max(initial=0), 0)

    def test_a_view_that_was_not_asked_for_its_place_is_the_same(self):
        source, options = self.source("memory"), {"global_batch": 4, "seed": 1, "stop_step": 2}
        plain = batches(source, Inputs(VIEWS), **options)
        more = batches(source, Inputs(VIEWS, placement=True, masks=True), **options)
        for a, b in zip(plain, more, strict=True):
            self.assertEqual(set(b) - set(a), {"placement", "masks"})
            for one, other in zip(a["views"], b["views"], strict=True):
                np.testing.assert_array_equal(one, other)

    def test_a_chain_that_moves_pixels_without_a_record(self):
        views = (View(8, recipe="finetune"),)
        recipes.check(Inputs(views))
        with self.assertRaisesRegex(UserError, "RandAugment moves pixels"):
            recipes.check(Inputs(views, placement=True))
        with self.assertRaisesRegex(UserError, "RandAugment moves pixels"):
            recipes.check(Inputs(VIEWS, streams=(("s", Inputs(views, masks=True)),)))


class MasksTest(parameterized.TestCase):
    def folder(self, masks=range(4), size=(6, 9), names="masks") -> Path:
        root = Path(self.create_tempdir().full_path)
        for name in ("images", names):
            (root / name / "c").mkdir(parents=True)
        for i in range(4):
            Image.fromarray(np.zeros((6, 9, 3), np.uint8)).save(root / f"images/c/{i}.png")
        for i in masks:
            Image.fromarray(np.full(size, i, np.uint8)).save(root / f"{names}/c/{i}.png")
        return root

    def read(self, root, masks=""):
        source, inputs = open_source(f"folder:{root}/images"), Inputs((View(4),), masks=True)
        return next(batches(source, inputs, global_batch=4, seed=0, stop_step=1, masks=masks))

    def test_a_folder_of_masks(self):
        root = self.folder(names="elsewhere")
        batch = self.read(root, str(root / "elsewhere"))
        self.assertEqual(batch["masks"][0].shape, (4, 1, 4, 4))
        np.testing.assert_array_equal(batch["masks"][0][:, 0, 0, 0], batch["index"])
        with self.assertRaisesRegex(UserError, "data.masks: .* has no masks, .*data.masks=/path"):
            self.read(root)

    def test_bad_masks(self):
        with self.assertRaisesRegex(UserError, "images/c/3.png: no mask .*masks/c/3.png"):
            self.read(self.folder(masks=range(3)))
        with self.assertRaisesRegex(UserError, "png has 9 x 6 pixels, expected .* 6 x 9"):
            self.read(self.folder(masks=[0, 1, 2, 3], size=(9, 6)))
        root = self.folder()
        (root / "masks/c/2.png").write_bytes(b"broken")
        with self.assertRaisesRegex(UserError, "masks/c/2.png: "):
            self.read(root)
        source = ArraySource("a", np.zeros((4, 6, 9, 3), np.uint8))
        inputs, options = Inputs((View(4),), masks=True), {"global_batch": 4, "seed": 0}
        with self.assertRaisesRegex(UserError, "a have no names"):
            batches(source, inputs, stop_step=1, masks="/x", **options)
        with self.assertRaisesRegex(UserError, "data.cache=device: .* needs masks"):
            batches(source, inputs, stop_step=1, boxes_only=True, **options)


if __name__ == "__main__":
    absltest.main()
