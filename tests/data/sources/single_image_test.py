"""Crops of one image against the released script's; no black corners; errors."""

from pathlib import Path

import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from ssl_jax.core.errors import UserError
from ssl_jax.data.decode import crop_resize, random_box
from ssl_jax.data.draws import uniform
from ssl_jax.data.sources import held_out, open_source, single_image
from tests.nets.weights import GOLDEN


def load():
    with np.load(GOLDEN / "single_image_crops.npz") as file:
        return dict(file)


class GoldenTest(absltest.TestCase):
    def test_resize_and_affine(self):
        data = load()
        side, margin = int(data["hp_crop"]), 2
        self.assertEqual(single_image.enlarged(side), data["hp_resize"])
        for i, row in enumerate(data["in_ijhw_angle_shear"]):
            box, (angle, shear) = tuple(map(int, row[:4])), map(float, row[4:])
            resized = crop_resize(data["in_image"], box, int(data["hp_resize"]), "bicubic")
            crop = single_image.cut(data["in_image"], box, angle, shear, side)
            for got, want in ((resized, data["out_resized"][i]), (crop, data["out_crops"][i])):
                error = np.abs(got.astype(int) - want)[margin:-margin, margin:-margin]
                self.assertLess(error.mean(), 1.5)

    def test_boxes(self):
        """Those that do not fit are drawn again, so the share of the area is not uniform."""
        data = load()
        width, height = map(int, data["hp_stats_image_wh"])
        numbers = uniform(0, np.arange(20_000), shape=(20, 4))
        boxes = np.array(
            [
                random_box(height, width, each, single_image.AREA, single_image.RATIO)[2:]
                for each in numbers
            ]
        )
        area, aspect = boxes.prod(1) / (height * width), boxes[:, 1] / boxes[:, 0]
        levels = data["hp_quantile_levels"]
        np.testing.assert_allclose(area.mean(), data["out_area_fraction_mean"], rtol=0.03)
        np.testing.assert_allclose(
            np.quantile(aspect, levels), data["out_aspect_quantiles"], rtol=0.03
        )
        # Quantiles of 20,000 draws deviate by 0.004; a uniform area would have a median of 0.5.
        np.testing.assert_allclose(
            np.quantile(area, levels), data["out_area_fraction_quantiles"], atol=0.012
        )


class SingleImageTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.file = Path(self.create_tempdir().full_path) / "one.png"
        pixels = np.random.default_rng(0).integers(1, 255, size=(40, 60, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(self.file)

    def open(self, options="crops=1000&side=12"):
        return open_source(f"single_image:{self.file}#{options}")

    def test_a_crop_is_a_function_of_seed_and_index(self):
        source = self.open()
        self.assertLen(source, 1000)
        self.assertIsNone(source.labels)
        self.assertEqual(source.read(7).shape, (12, 12, 3))
        np.testing.assert_array_equal(source.read(7), self.open().read(7))
        self.assertTrue((source.read(7) != source.read(8)).any())
        self.assertTrue((source.read(7) != self.open("crops=1000&side=12&seed=1").read(7)).any())
        self.assertTrue(source.matches(self.open().fingerprint()))
        self.assertFalse(source.matches(self.open("crops=999&side=12").fingerprint()))
        self.assertIsNone(held_out(f"single_image:{self.file}"))

    def test_defaults_are_the_papers(self):
        source = open_source(f"single_image:{self.file}")
        self.assertLen(source, 1_281_167)
        self.assertEqual(source.read(1_281_166).shape, (256, 256, 3))

    @parameterized.parameters(12, 48, 64)
    def test_no_black_corners(self, side):
        """The released angles leave a quarter of the crops with some; 45 degrees are not drawn."""
        white = np.full((50, 70, 1), 255, np.uint8)
        box, black = (5, 5, 40, 50), []
        for numbers in uniform(0, np.arange(200), shape=(single_image.TRIES, 2)):
            first = (2 * numbers[0] - 1) * (single_image.ROTATION, single_image.SHEAR)
            angles = single_image.draw_angles(numbers, side)
            self.assertEqual(single_image.cut(white, box, *angles, side).min(), 255)
            black.append(single_image.cut(white, box, *first, side).min() < 255)
            if not black[-1]:
                np.testing.assert_allclose(angles, first)
        self.assertBetween(np.mean(black), 0.15, 0.4)

    @parameterized.parameters(
        ("crop=5", "unknown 'crop=5' after '#'; did you mean 'crops'"),
        ("crops=0", "expected crops=N with a whole number from 1 to 2147483647, got '0'"),
        ("side=x", "expected side=N with a whole number from 1 to 4096, got 'x'"),
        ("seed=-1", "expected seed=N"),
    )
    def test_invalid_options(self, options, message):
        with self.assertRaisesRegex(UserError, message):
            self.open(options)

    def test_no_image(self):
        with self.assertRaisesRegex(UserError, "single_image:/nowhere.jpg: no such file"):
            open_source("single_image:/nowhere.jpg")
        self.file.write_bytes(b"not an image")
        with self.assertRaisesRegex(UserError, "not a readable image"):
            self.open()


if __name__ == "__main__":
    absltest.main()
