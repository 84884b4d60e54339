import io
import struct
import zlib
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import scipy.stats
from absl.testing import absltest, parameterized
from PIL import Image

from ssl_jax.data import decode as d
from tests.data import pictures


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

    @parameterized.parameters(((24, 40, 3),), ((24, 40, 4),))
    def test_sixteen_bits_of_colour(self, shape):
        wide = np.random.default_rng(0).integers(0, 4096, shape).astype(np.uint16)
        wide[..., 3:] = 65535
        swapped = wide[..., [2, 1, 0, 3][: shape[-1]]]
        for kind in ("png", "jp2")[: 5 - shape[-1]]:
            options = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000] if kind == "jp2" else []
            data = cv2.imencode(f".{kind}", np.tile(swapped, (4, 4, 1)), options)[1].tobytes()
            got = d.decode(data, 3, None, (0, 4095))[:24, :40]
            want = np.round(wide[..., :3] / 4095 * 255)
            np.testing.assert_allclose(got, want, atol=1, err_msg=kind)

    def test_a_range_of_one_image(self):
        wide = np.linspace(100, 4000, 64 * 64).reshape(64, 64)
        for image in (wide.astype(np.uint16), wide.astype(np.float32), wide.astype(np.int32)):
            got = d.decode(encode(Image.fromarray(image), "TIFF"), 1)
            self.assertGreater(len(np.unique(got)), 200)

    def test_arrays_as_prepare_writes_them(self):
        for image in (np.arange(60, dtype=np.uint8).reshape(3, 4, 5), np.zeros((2, 2, 2), "<i2")):
            out = io.BytesIO()
            np.save(out, image)
            np.testing.assert_array_equal(d.native(out.getvalue()), image)
        for bad in (np.zeros((2, 2)), np.zeros((2, 2, 1), complex)):
            out = io.BytesIO()
            np.save(out, bad)
            with self.assertRaisesRegex(d.DecodeError, "expected numbers"):
                d.decode(out.getvalue())
        with self.assertRaises(d.DecodeError):
            d.decode(out.getvalue()[:20])

    def test_a_band_of_a_png_is_read_where_it_is_asked_for(self):
        image = np.random.default_rng(0).integers(0, 255, (8, 9, 4), dtype=np.uint8)
        np.testing.assert_array_equal(d.decode(encode(Image.fromarray(image), "PNG"), 4), image)
        for kind in ("PNG", "JPEG"):
            with self.assertRaisesRegex(d.DecodeError, "of 4 bands, got 3"):
                d.decode(encode(picture(), kind), 4)

    def test_jpeg_2000_is_halved_for_room(self):
        data = encode(picture(size=(80, 64)), "JPEG2000", num_resolutions=3)
        sizes = [d.decode(data, 3, lambda *_, n=n: n).shape[:2] for n in (1, 2, 4, 8)]
        self.assertEqual(sizes, [(64, 80), (32, 40), (16, 20), (16, 20)])

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
        rooms = []
        got = d.decode(
            encode(image, "JPEG", quality=95), room=lambda *size: rooms.append(size) or room
        )
        self.assertEqual(rooms, [(61, 83)])
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


def memory(what: str) -> int:
    """Return the memory of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(what))


class MemoryTest(parameterized.TestCase):
    """A decode takes no more memory than computed from its header, and at most `MAX_MEMORY`."""

    @parameterized.parameters((1, 0), (8, 2), (8, 6), (16, 0), (16, 2), (16, 6))
    def test_small_files_of_many_pixels(self, bits, kind):
        side = 13370  # just within the limit of pixels
        row = -(-side * bits * {0: 1, 2: 3, 6: 4}[kind] // 8)
        data = pictures.png(side, 1, bits, kind, bytes(row))
        data = data[:20] + side.to_bytes(4, "big") + data[24:]
        head = zlib.crc32(data[12:29]).to_bytes(4, "big")
        data = data[:29] + head + data[33:]
        needs = []
        spy = lambda h, w, need: needs.append(need) or 1 / 0  # noqa: E731
        with mock.patch.object(d, "_bounded", spy), self.assertRaises(d.DecodeError):
            d.decode(data)
        self.assertGreaterEqual(needs[0], side * side * 4)
        if needs[0] > d.MAX_MEMORY:
            with self.assertRaisesRegex(d.DecodeError, "MB to decode; the limit is 900 MB"):
                d.decode(data)

    @absltest.skipUnless(Path("/proc/self/clear_refs").exists(), "of Linux")
    def test_every_format_holds_what_it_is_said_to(self):
        side = 1000
        image = Image.new("RGB", (side, side), "red")
        files = {
            kind: encode(image, kind, **options)
            for kind, options in {
                "PNG": {},
                "JPEG": {"progressive": True, "subsampling": 0},
                "WEBP": {"lossless": True, "method": 0},
                "AVIF": {"speed": 10},
                "JPEG2000": {},
                "GIF": {},
                "BMP": {},
                "TIFF": {"compression": "tiff_lzw"},
            }.items()
        }
        for alpha in ("PNG", "WEBP"):
            files[f"{alpha} alpha"] = encode(image.convert("RGBA"), alpha)
        for kind, data in files.items():
            needs, bounded = [], d._bounded
            spy = lambda h, w, need: needs.append(need) or bounded(h, w, need)  # noqa: B023, E731
            with mock.patch.object(d, "_bounded", spy):
                Path("/proc/self/clear_refs").write_text(
                    "5"
                )  # resets the peak to the current memory
                before = memory("VmHWM")
                d.decode(data)
            self.assertLess(memory("VmHWM") - before, 1.2 * needs[-1] + 10e6, kind)
            self.assertLess(needs[-1], 30 * side**2, kind)

    def test_a_tiff_that_says_it_is_large(self):
        data = bytearray(pictures.tiff([np.zeros((4, 4, 5), np.uint16)]))
        for tag in (256, 257):
            at = data.index(struct.pack("<HHI", tag, 4, 1)) + 8
            data[at : at + 4] = struct.pack("<I", 12_000)
        with self.assertRaisesRegex(d.DecodeError, "MB to decode"):
            d.decode(bytes(data))


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

    def test_viewable(self):
        for bands, shown in ((1, 1), (2, 1), (3, 3), (4, 3), (13, 3)):
            image = np.zeros((2, 2, bands), np.uint8)
            self.assertEqual(d.viewable(image).shape[-1], shown)

    def test_averaged(self):
        image = np.random.default_rng(0).integers(0, 255, (9, 12, 13), dtype=np.uint8)
        want = image.reshape(3, 3, 4, 3, 13).mean((1, 3))
        np.testing.assert_allclose(d.averaged(image, 3, 4), want, atol=0.51)
        self.assertEqual(d.averaged(image, 4, 5).shape, (4, 5, 13))  # not by an integer factor


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

    def test_the_aspect_of_the_image(self):
        """A crop of 256 x 256 from an image that was resized to 286 x 286."""
        draws, share = np.random.default_rng(0).random((d.TRIES, 4)), (256 / 286) ** 2
        *corner, h, w = d.random_box(286, 572, draws, (share, share), kind="same_aspect")
        self.assertEqual((h, w), (256, 512))
        self.assertTrue(0 <= corner[0] <= 30 and 0 <= corner[1] <= 60)

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
        """Each single input pixel affects the output: a stripe one pixel wide never vanishes."""
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

    def test_eval_crop_that_is_not_square(self):
        image = np.zeros((100, 200, 1), np.uint8)
        image[6:94, 34:166] = 255  # the central 88 x 132: 0.875 of 100 x 150, rounded
        self.assertTrue((d.eval_crop(image, (32, 48)) == 255).all())
        self.assertFalse((d.eval_crop(image, (32, 49)) == 255).all())
        self.assertFalse((d.eval_crop(image, (32, 48), share=0.9) == 255).all())
        np.testing.assert_array_equal(d.eval_crop(image, (100, 150)), image[:, 25:175])
        self.assertEqual(d.eval_crop(image, (150, 300)).shape, (150, 300, 1))


if __name__ == "__main__":
    absltest.main()
