import io

import numpy as np
import scipy.stats
from absl.testing import absltest, parameterized
from PIL import Image

from ssl_jax.data import decode as d


def encode(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def picture(mode="RGB", size=(40, 24)) -> Image.Image:
    x = np.linspace(0, 255, size[0])[None, :, None]
    y = np.linspace(0, 255, size[1])[:, None, None]
    full = np.concatenate(np.broadcast_arrays(x, y, 255 - x), -1).astype(np.uint8)
    return Image.fromarray(full).convert(mode)


class DecodeTest(parameterized.TestCase):
    @parameterized.product(mode=["RGB", "L"], kind=["PNG", "BMP", "TIFF", "PPM"], channels=[1, 3])
    def test_lossless(self, mode, kind, channels):
        image = picture(mode)
        want = np.asarray(image.convert("RGB" if channels == 3 else "L"))
        got = d.decode(encode(image, kind), channels)
        np.testing.assert_array_equal(got, want.reshape(24, 40, channels))
        self.assertEqual(got.dtype, np.uint8)

    @parameterized.product(mode=["RGB", "L", "CMYK"], channels=[1, 3])
    def test_jpeg(self, mode, channels):
        data = encode(picture(mode), "JPEG", quality=95)
        pillow = Image.open(io.BytesIO(data)).convert("RGB" if channels == 3 else "L")
        got = d.decode(data, channels)
        self.assertEqual(got.shape, (24, 40, channels))
        difference = got.astype(int) - np.asarray(pillow).reshape(got.shape)
        self.assertLessEqual(np.abs(difference).max(), 2)

    def test_palette_gif_and_webp(self):
        want = np.asarray(picture())
        for kind, options, far in (("GIF", {}, 60), ("WEBP", {"lossless": True}, 0)):
            got = d.decode(encode(picture(), kind, **options))
            self.assertLessEqual(np.abs(got.astype(int) - want).max(), far, kind)

    def test_first_frame_of_an_animation(self):
        frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
        data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
        np.testing.assert_array_equal(d.decode(data)[0, 0], [255, 0, 0])

    def test_transparent_is_white(self):
        image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
        image.putpixel((1, 0), (0, 0, 0, 0))
        got = d.decode(encode(image, "PNG"))
        np.testing.assert_array_equal(got, [[[255, 0, 0], [255, 255, 255]]])

    def test_sixteen_bits(self):
        wide = np.array([[0, 257, 65535, 32896, 300]], np.uint16)
        got = d.decode(encode(Image.fromarray(wide), "PNG"), channels=1)
        np.testing.assert_array_equal(got[..., 0], [[0, 1, 255, 128, 1]])

    @parameterized.product(kind=["JPEG", "PNG"], orientation=[3, 6, 8, 5])
    def test_exif_orientation(self, kind, orientation):
        image = Image.new("RGB", (32, 16), "black")
        image.paste("white", (0, 0, 16, 16))  # left half
        exif = Image.Exif()
        exif[0x0112] = orientation
        got = d.decode(encode(image, kind, exif=exif))[..., 0] > 127
        turned = {
            3: np.rot90(np.asarray(image), 2),
            6: np.rot90(np.asarray(image), -1),
            8: np.rot90(np.asarray(image), 1),
            5: np.asarray(image).swapaxes(0, 1),
        }[orientation]
        np.testing.assert_array_equal(got, turned[..., 0] > 127)

    def test_broken(self):
        whole = encode(picture(size=(300, 300)), "JPEG")
        for data in (b"", b"this is text", whole[: len(whole) // 2], whole[:10]):
            with self.assertRaises(d.DecodeError):
                d.decode(data)
        with self.assertRaises(d.DecodeError):
            d.decode(encode(picture(), "PNG")[:-40])

    def test_decompression_bombs(self):
        png = encode(Image.new("1", (30_000, 30_000)), "PNG")
        self.assertLess(len(png), 1 << 20)
        with self.assertRaisesRegex(d.DecodeError, "decompression bomb|more than"):
            d.decode(png)
        jpeg = bytearray(encode(Image.new("L", (16, 16)), "JPEG"))
        size = jpeg.index(b"\xff\xc0") + 5  # height and width in the frame header
        jpeg[size : size + 4] = (60_000).to_bytes(2, "big") * 2
        with self.assertRaisesRegex(d.DecodeError, "decompression bomb|more than"):
            d.decode(bytes(jpeg))


class ChannelsTest(absltest.TestCase):
    def test_to_channels(self):
        rgb = np.asarray(picture())
        self.assertIs(d.to_channels(rgb, 3), rgb)
        grey = d.to_channels(rgb, 1)
        want = np.asarray(picture().convert("L"))[..., None]
        self.assertLessEqual(np.abs(grey.astype(int) - want).max(), 1)
        np.testing.assert_array_equal(d.to_channels(grey, 3)[..., 2], grey[..., 0])
        with self.assertRaises(ValueError):
            d.to_channels(rgb, 2)


class BoxTest(absltest.TestCase):
    def test_area_aspect_and_place_have_the_stated_distributions(self):
        rng = np.random.default_rng(0)
        boxes = [d.random_box(400, 400, rng.random((d.TRIES, 4)), (0.1, 0.3)) for _ in range(4000)]
        top, left, h, w = np.array(boxes).T
        self.assertTrue((top >= 0).all() and (top + h <= 400).all())
        self.assertTrue((left >= 0).all() and (left + w <= 400).all())
        area, aspect = h * w / 400**2, np.log(w / h) / np.log(4 / 3)
        self.assertGreater(scipy.stats.kstest(area, "uniform", (0.1, 0.2)).pvalue, 1e-3)
        self.assertGreater(scipy.stats.kstest(aspect, "uniform", (-1, 2)).pvalue, 1e-3)
        place = (top + rng.random(4000)) / (400 - h + 1)
        self.assertGreater(scipy.stats.kstest(place, "uniform").pvalue, 1e-3)

    def test_retries_then_falls_back_to_the_centre(self):
        draws = np.full((d.TRIES, 4), 0.5)
        self.assertEqual(d.random_box(500, 3, draws, (0.5, 1.0)), (248, 0, 4, 3))
        self.assertEqual(d.random_box(30, 300, draws, (0.9, 1.0)), (0, 130, 30, 40))
        self.assertEqual(d.random_box(1, 1, draws, (0.01, 0.02)), (0, 0, 1, 1))
        draws[4] = (0.0, 0.5, 0.0, 0.999)  # the fifth try fits: 15 x 15, at the top, to the right
        self.assertEqual(d.random_box(30, 300, draws, (0.025, 5.0)), (0, 285, 15, 15))


class ResizeTest(parameterized.TestCase):
    @parameterized.parameters(1, 3, 5)
    def test_shrinks_by_averaging(self, channels):
        image = np.random.default_rng(0).integers(0, 256, (32, 32, channels)).astype(np.uint8)
        want = image.reshape(8, 4, 8, 4, channels).mean((1, 3))
        got = d.resize(image, 8)
        self.assertEqual(got.shape, (8, 8, channels))
        np.testing.assert_allclose(got, want, atol=0.51)

    def test_enlarges_linearly(self):
        got = d.resize(np.array([[[0], [200]]] * 2, np.uint8), 4)
        np.testing.assert_array_equal(got[0, :, 0], [0, 50, 150, 200])

    def test_crop_of_the_size_is_a_copy_of_pixels(self):
        image = np.asarray(picture())
        np.testing.assert_array_equal(d.crop_resize(image, (3, 5, 8, 8), 8), image[3:11, 5:13])

    def test_eval_crop(self):
        image = np.zeros((100, 200, 1), np.uint8)
        image[6:94, 56:144] = 255  # the central 88 x 88: 0.875 of 100, rounded
        self.assertTrue((d.eval_crop(image, 32) == 255).all())
        self.assertFalse((d.eval_crop(image, 32, share=0.92) == 255).all())
        small = np.asarray(picture("L", (16, 16)))[..., None]
        np.testing.assert_array_equal(d.eval_crop(small, 16), small)
        self.assertEqual(d.eval_crop(small, 24).shape, (24, 24, 1))


if __name__ == "__main__":
    absltest.main()
