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

    def test_exif_behind_other_segments(self):
        exif = Image.Exif()
        exif[0x0112] = 6
        data = encode(picture(), "JPEG", exif=exif)
        comment = b"\xff\xfe\x00\x08Exif\0\0"  # a comment that looks like EXIF to a mere search
        self.assertEqual(d.decode(data[:2] + comment + data[2:]).shape, (40, 24, 3))
        plain = encode(picture(), "JPEG")
        self.assertEqual(d.decode(plain[:2] + comment + plain[2:]).shape, (24, 40, 3))

    @parameterized.parameters(
        (0.5, 1), (1.0, 1), (1.99, 1), (2.0, 2), (3.9, 2), (4.0, 4), (99.0, 8)
    )
    def test_scaled_decode(self, room, scale):
        image = picture(size=(83, 61))
        asked = []
        got = d.decode(
            encode(image, "JPEG", quality=95), room=lambda *size: asked.append(size) or room
        )
        self.assertEqual(asked, [(61, 83)])
        self.assertEqual(got.shape, (-(-61 // scale), -(-83 // scale), 3))
        h, w = 61 // scale, 83 // scale
        pixels = np.asarray(image)[: h * scale, : w * scale]
        want = pixels.reshape(h, scale, w, scale, 3).mean((1, 3))
        self.assertLess(np.abs(got[:h, :w] - want).mean(), 2)

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

    def test_byol_draws_once_and_cuts_the_sides(self):
        draws = np.full((d.TRIES, 4), 0.5)
        self.assertEqual(d.random_box(500, 3, draws, (0.5, 1.0), kind="one_draw"), (233, 0, 34, 3))
        rng = np.random.default_rng(0)
        for height, width in ((50, 70), (90, 40)):
            for _ in range(300):
                draws = rng.random((d.TRIES, 4))
                share, aspect = 0.08 + 0.92 * draws[0, 0], (3 / 4) ** (1 - 2 * draws[0, 1])
                area = height * width * share
                w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
                top, left, *got = d.random_box(height, width, draws, (0.08, 1.0), kind="one_draw")
                self.assertEqual(got, [min(h, height), min(w, width)])
                self.assertTrue(0 <= top <= height - got[0] and 0 <= left <= width - got[1])


class ResizeTest(parameterized.TestCase):
    @parameterized.parameters(1, 3, 5)
    def test_shrinks_by_averaging(self, channels):
        image = np.random.default_rng(0).integers(0, 256, (32, 32, channels)).astype(np.uint8)
        for size, roundings in ((16, 1), (8, 2)):
            n = 32 // size
            want = image.reshape(size, n, size, n, channels).mean((1, 3))
            got = d.resize(image, size)
            self.assertEqual(got.shape, (size, size, channels))
            np.testing.assert_allclose(got, want, atol=0.51 * roundings)

    @parameterized.parameters("bilinear", "bicubic")
    def test_no_pixel_is_skipped(self, interpolation):
        """Each input pixel, alone, shows in the output: a stripe one pixel wide never vanishes."""
        for height, width, size in ((30, 16, 8), (16, 90, 8), (100, 100, 9)):
            for axis, side in ((0, height), (1, width)):
                for at in range(2, side - 2):
                    image = np.zeros((height, width, 1), np.uint8)
                    image[(slice(None),) * axis + (at,)] = 255
                    got = d.resize(image, size, interpolation)
                    self.assertGreater(got.max(), 0, (height, width, axis, at))

    def test_bicubic_against_its_formula(self):
        image = np.random.default_rng(0).integers(0, 256, (12, 12, 1)).astype(np.uint8)

        def kernel(x: float, a: float = -0.75) -> float:  # Keys 1981
            x = abs(x)
            if x <= 1:
                return (a + 2) * x**3 - (a + 3) * x**2 + 1
            return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

        weights = np.zeros((7, 5))
        for i in range(7):
            at = (i + 0.5) * 5 / 7 - 0.5
            for tap in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
                weights[i, np.clip(tap, 0, 4)] += kernel(at - tap)
        want = (weights @ image[3:8, 2:7, 0] @ weights.T).clip(0, 255)
        got = d.crop_resize(image, (3, 2, 5, 5), 7, "bicubic")[..., 0]
        np.testing.assert_allclose(got, want, atol=1.0)

    @parameterized.product(size=[6, 8, 20], channels=[1, 3, 4])
    def test_writes_into_the_batch(self, size, channels):
        image = np.random.default_rng(0).integers(0, 256, (8, 30, channels)).astype(np.uint8)
        batch = np.zeros((2, 3, size, size, channels), np.uint8)
        for box in ((0, 0, 8, 30), (0, 3, 8, 8), (2, 1, 5, 6)):
            d.crop_resize(image, box, size, out=batch[1, 1])
            np.testing.assert_array_equal(batch[1, 1], d.crop_resize(image, box, size))
        batch[1, 1] = 0
        self.assertEqual(batch.max(), 0)

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
