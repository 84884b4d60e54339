import io
from pathlib import Path
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from ssl_jax.core.errors import UserError
from ssl_jax.data import reader as reader_module
from ssl_jax.data.reader import Reader, num_channels
from ssl_jax.data.sources import ArraySource, open_source


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(out, "PNG")
    return out.getvalue()


class FlakySource(ArraySource):
    """Raises `errors` in turn at each read, then yields."""

    def __init__(self, errors):
        super().__init__("flaky", np.zeros((10, 4, 4, 3), np.uint8))
        self.errors, self.reads = list(errors), 0

    def read(self, index):
        self.reads += 1
        if self.errors:
            raise self.errors.pop(0)
        return super().read(index)


class ReaderTest(parameterized.TestCase):
    def folder(self, n=20, **broken: bytes):
        """`n` good images, of grey level i at index i, with those in `broken` overwritten."""
        root = Path(self.create_tempdir().full_path)
        for i in range(n):
            (root / f"{i:03}.png").write_bytes(broken.get(f"i{i}", png(i)))
        return open_source(f"folder:{root}")

    @parameterized.named_parameters(
        ("empty", b""),
        ("text", b"not an image"),
        ("cut", png(3)[:50]),
        ("jpeg", b"\xff\xd8\xff\xe0"),
    )
    def test_a_broken_image_is_replaced(self, data):
        source = self.folder(i3=data)
        reader = Reader(source, seed=1, max_bad_fraction=0.05)
        with self.assertLogs("absl", "WARNING") as logs:
            image, index = reader.pixels(3)
        self.assertNotEqual(index, 3)
        self.assertEqual(image[0, 0, 0], index)  # the pixels are those of the index that it names
        self.assertEqual(list(reader.bad), [3])
        self.assertIn("003.png", logs.output[0])
        with self.assertNoLogs("absl", "WARNING"):  # named once
            self.assertEqual(reader.pixels(3)[1], index)
            Reader(source, max_bad_fraction=0.05).try_pixels(3)  # by whatever reader

    def test_the_replacement_depends_on_seed_and_index_alone(self):
        source = self.folder(i3=b"", i4=b"")
        first, second = (Reader(source, seed=1, max_bad_fraction=0.2) for _ in range(2))
        second.pixels(4)
        self.assertEqual(first.pixels(3)[1], second.pixels(3)[1])
        others = {Reader(source, seed=s, max_bad_fraction=0.2).pixels(3)[1] for s in range(20)}
        self.assertGreater(len(others), 5)
        self.assertTrue(others.isdisjoint({3, 4}))

    def test_a_removed_file_is_replaced_at_once(self):
        source = self.folder()
        Path(source.describe(5)).unlink()
        with mock.patch.object(reader_module.time, "sleep") as sleep:
            self.assertNotEqual(Reader(source, max_bad_fraction=0.05).pixels(5)[1], 5)
        sleep.assert_not_called()

    def test_too_many_broken_stop_with_the_first_named(self):
        reader = Reader(self.folder(i3=b"", i7=b"", i9=b""), max_bad_fraction=0.1)
        reader.try_pixels(7)
        reader.try_pixels(3)
        with self.assertRaisesRegex(UserError, r"3 of 20 images .*\(.*allows 2\).*007\.png"):
            reader.try_pixels(9)

    def test_no_fraction_allows_none_and_nothing_but_broken_stops(self):
        with self.assertRaisesRegex(UserError, "allows 0"):
            Reader(self.folder(i3=b""), max_bad_fraction=0.0).pixels(3)
        with self.assertRaisesRegex(UserError, "1 of 1 images"):
            Reader(self.folder(n=1, i0=b""), max_bad_fraction=1.0).pixels(0)

    @mock.patch.object(reader_module.time, "sleep")
    def test_a_passing_error_is_retried(self, sleep):
        source = FlakySource([OSError("stale handle")] * reader_module.RETRIES)
        reader = Reader(source)
        self.assertEqual(reader.pixels(2)[1], 2)
        self.assertEqual((source.reads, reader.bad), (4, {}))
        self.assertEqual(sleep.call_count, 3)

    @mock.patch.object(reader_module.time, "sleep")
    def test_an_error_that_stays_counts_as_broken(self, sleep):
        del sleep
        reader = Reader(FlakySource([OSError("disk")] * 4), max_bad_fraction=0.1)
        self.assertNotEqual(reader.pixels(2)[1], 2)
        self.assertEqual(reader.bad, {2: "disk"})

    def test_channels(self):
        grey = ArraySource("g", np.zeros((2, 4, 4, 1), np.uint8))
        many = ArraySource("m", np.zeros((2, 4, 4, 6), np.uint8))
        self.assertEqual([num_channels(grey, c) for c in (0, 1, 3)], [1, 1, 3])
        self.assertEqual([num_channels(self.folder(2), c) for c in (0, 1, 3)], [3, 1, 3])
        self.assertEqual(num_channels(many, 0), 6)
        for source, channels in ((grey, 2), (many, 3)):
            with self.assertRaisesRegex(UserError, "can be read with"):
                num_channels(source, channels)
        self.assertEqual(Reader(grey, 3).pixels(0)[0].shape, (4, 4, 3))
        self.assertEqual(Reader(self.folder(2), 1).pixels(0)[0].shape, (8, 8, 1))


if __name__ == "__main__":
    absltest.main()
