import tracemalloc
from pathlib import Path

import numpy as np
from absl.testing import absltest

from ssl_jax.core.errors import UserError
from ssl_jax.data.reader import Reader
from ssl_jax.data.sources import ArraySource, open_source
from ssl_jax.data.subset import Subset
from ssl_jax.data.survey import Survey, survey
from tests.data.pictures import tiff


class SurveyTest(absltest.TestCase):
    def folder(self, images):
        root = Path(self.create_tempdir().full_path)
        for i, image in enumerate(images):
            (root / f"{i:02}.tif").write_bytes(tiff([image]))
        return open_source(f"folder:{root}")

    def waves(self, top, dtype, bands=1, low=0, count=6):
        y, x = np.mgrid[:32, :32]
        each = [(np.sin(x / (2 + i)) * np.cos(y / 5) + 1) / 2 for i in range(count)]
        images = np.stack(each)[..., None] * (top - low) + low
        return np.repeat(images, bands, -1).astype(dtype)

    def test_a_detector_of_12_bits_and_a_scanner(self):
        for low, top, dtype in ((0, 4095, np.uint16), (-1000, 1500, np.int16)):
            source = self.folder(self.waves(top, dtype, low=low))
            result = survey(source)
            np.testing.assert_allclose(result.value_range, (low, top), atol=60)
            self.assertRegex(
                result.lines[0], r"range .*int16 pixels: .* become 0\.\.255 \(measured"
            )
            self.assertEqual(result, survey(source))
            source.read_in(result.value_range)
            self.assertGreater(len(np.unique(Reader(source).pixels(0)[0])), 100)

    def test_large_images_are_not_in_memory_together(self):
        side, count = 2000, 16
        source = self.folder([np.full((side, side, 1), 1000 * i, np.uint16) for i in range(count)])
        tracemalloc.start()
        try:
            survey(source)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        self.assertLess(peak, count * side * side * 2 / 2)

    def test_one_range_for_all_images(self):
        dark = self.waves(4095, np.uint16)
        dark[0] //= 4
        source = self.folder(dark)
        source.read_in(survey(source).value_range)
        first, second = (Reader(source, 1).pixels(i)[0].max() for i in (0, 1))
        self.assertLess(abs(int(first) - 64), 3)
        self.assertGreater(second, 250)

    def test_bytes_have_no_range(self):
        source = self.folder(self.waves(255, np.uint8, 3))
        self.assertEqual(survey(source), Survey())
        with self.assertRaisesRegex(UserError, "data.range: all of 6 sampled images .* are 8-bit"):
            survey(source, value_range=(0.0, 100.0))

    def test_few_levels_are_named(self):
        for images in (self.waves(15, np.uint8, 3), self.waves(4095, np.uint16)):
            named = () if images.dtype == np.uint8 else (0.0, 65535.0)
            (*_, line) = survey(self.folder(images), value_range=named).lines
            self.assertRegex(line, r"warning: .* about 1[567] of 256 grey levels")

    def test_images_of_little_contrast_that_use_all_levels_together(self):
        self.assertEqual(survey(open_source("photos")), Survey())
        steps = np.linspace(0, 240, 16).astype(np.uint8)[:, None, None, None]
        images = self.waves(15, np.uint8, count=16)
        self.assertEqual(survey(ArraySource("steps", images + steps)), Survey())
        self.assertLen(survey(ArraySource("dark", images)).lines, 1)

    def test_one_bright_image_does_not_hide_the_dark_ones(self):
        images = self.waves(15, np.uint8, count=16)
        images[3] *= 17
        self.assertLen(survey(ArraySource("dark", images)).lines, 1)

    def test_bands(self):
        source = self.folder(self.waves(255, np.uint8, 4))
        result = survey(source)
        self.assertEqual((result.bands, result.value_range), (4, ()))
        self.assertIn("4 per image", result.lines[0])
        self.assertEqual(Reader(source).pixels(0)[0].shape, (32, 32, 4))
        mixed = [*self.waves(255, np.uint8, 4), *self.waves(255, np.uint8, 3)]
        self.assertEqual(survey(self.folder(mixed)).bands, 3)

    def test_arrays_of_any_type(self):
        images = self.waves(4095, np.uint16)
        source = ArraySource("a", images)
        self.assertEqual((source.value_range, source.arrays.dtype), ((0, 4095), np.uint8))
        want = np.round(images / 4095 * 255)
        np.testing.assert_allclose(source.arrays, want, atol=1)
        np.testing.assert_array_equal(Reader(source).pixels(2)[0], source.arrays[2])
        part = Subset(source, np.array([2, 0]), "part")
        part.read_in((0, 8190))
        np.testing.assert_allclose(part.arrays, np.round(images[[2, 0]] / 8190 * 255), atol=1)
        np.testing.assert_array_equal(Reader(part).pixels(1)[0], part.arrays[1])


if __name__ == "__main__":
    absltest.main()
