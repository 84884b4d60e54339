import io

import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from ssl_jax.data import decode as d
from ssl_jax.data import tiff
from tests.data import pictures

RNG = np.random.default_rng(0)


def noise(bands: int, dtype: str, shape=(50, 70)) -> np.ndarray:
    return (RNG.random((*shape, bands)) * 200).astype(dtype)


class TiffTest(parameterized.TestCase):
    @parameterized.product(dtype=["u1", "u2", "i2", "u4", "f2", "f4", "f8"], bands=[1, 2, 4, 13])
    def test_any_bands_of_any_type(self, dtype, bands):
        image = noise(bands, dtype)
        (page,) = tiff.pages(pictures.tiff([image]))
        self.assertEqual((page.bands, page.dtype), (bands, np.dtype(dtype)))
        np.testing.assert_array_equal(tiff.read(pictures.tiff([image]), page), image)
        np.testing.assert_array_equal(d.native(pictures.tiff([image]))[..., :bands], image)

    @parameterized.parameters(
        ("I;16", "tiff_lzw", 2),
        ("I;16", "packbits", 2),
        ("I;16", "tiff_adobe_deflate", 1),
        ("I", "tiff_lzw", 2),
        ("F", "tiff_lzw", 3),
        ("F", "tiff_adobe_deflate", 3),
    )
    def test_packed(self, mode, packing, predictor):
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image, out = noise(1, kind), io.BytesIO()
        picture = Image.fromarray(image[..., 0])
        picture.save(out, "TIFF", compression=packing, tiffinfo={317: predictor})
        (page,) = tiff.pages(out.getvalue())
        np.testing.assert_array_equal(tiff.read(out.getvalue(), page), image)

    def test_a_fourth_band_is_no_alpha(self):
        image = noise(4, "u1")
        data = pictures.tiff([image])
        with self.assertLogs("absl", "WARNING") as logs:
            d._logged.clear()
            np.testing.assert_array_equal(d.decode(data), image[..., :3])
            d.decode(data)
        self.assertLen(logs.output, 1)
        self.assertIn("1 band(s) of a image of 4 bands", logs.output[0])
        np.testing.assert_array_equal(d.decode(data, 4), image)
        np.testing.assert_array_equal(d.decode(data, 2), image[..., :2])
        with self.assertRaisesRegex(d.DecodeError, "of 5 bands, got 4"):
            d.decode(data, 5)

    def test_pages_are_named_or_read(self):
        first, second, other = noise(1, "u1"), noise(1, "u1"), noise(1, "u1", (8, 8))
        data = pictures.tiff([first, second, other])
        with self.assertLogs("absl", "WARNING") as logs:
            d._logged.clear()
            np.testing.assert_array_equal(d.decode(data, 1), first)
        self.assertIn("page(s) of a TIFF file", logs.output[0])
        both = np.concatenate([first, second], -1)
        np.testing.assert_array_equal(d.decode(data, 2), both)
        self.assertLen(tiff.pages(data), 3)
        self.assertLen(tiff.pages(pictures.tiff([first], {254: (1,)})), 0)  # a reduced copy

    def test_pixels_without_a_value(self):
        image = noise(1, "i2")
        image[:10] = -99
        data = bytearray(pictures.tiff([image], {42113: (0,)}))
        at = data.index((42113).to_bytes(2, "little"))
        data[at + 2 : at + 12] = b"\x02\0" + b"\x04\0\0\0" + b"-99\0"
        got = d.native(bytes(data))
        self.assertTrue(np.isnan(got[:10]).all())
        self.assertEqual(d.decode(bytes(data), 1)[:10].max(), 0)
        np.testing.assert_array_equal(got[10:], image[10:])

    @parameterized.parameters(*range(1, 9))
    def test_orientation(self, orientation):
        image = noise(3, "u1")
        exif = Image.Exif()
        exif[0x0112] = orientation
        out = io.BytesIO()
        Image.fromarray(image).save(out, "PNG", exif=exif)
        upright = d.decode(out.getvalue())
        wide = pictures.tiff([image.astype(np.uint16)], {274: (orientation,)})
        np.testing.assert_array_equal(d.decode(wide, 3, None, (0, 255)), upright)

    def test_damaged(self):
        data = pictures.tiff([noise(5, "u2", (8, 8))])
        for end in (0, 4, 8, 100, 600, 800):
            with self.assertRaises(d.DecodeError):
                d.decode(data[:end], 5)


if __name__ == "__main__":
    absltest.main()
