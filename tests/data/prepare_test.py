"""Preparing shards: what is written is what was read, in parts, and once."""

import json
from pathlib import Path

import cv2
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.data import prepare as preparing
from ssl_jax.data.decode import decode
from ssl_jax.data.prepare import Shards, prepare
from ssl_jax.data.sources import ArraySource, open_source


class PrepareTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)
        self.output = self.folder / "out"

    def pictures(self, height=30, width=40, classes=2, each=3):
        draw = np.random.default_rng(0)
        for c in range(classes):
            folder = self.folder / "in" / f"class{c}"
            folder.mkdir(parents=True)
            for i in range(each):
                image = draw.integers(0, 255, (height, width, 3), dtype=np.uint8)
                cv2.imwrite(str(folder / f"{i}.jpg"), image)
        return open_source(f"folder:{self.folder / 'in'}")

    def test_files_stay_as_they_are(self):
        source = self.pictures()
        manifest = prepare(source, self.output, Shards(per_shard=4))
        self.assertEqual([s["examples"] for s in manifest["shards"]], [4, 2])
        again = open_source(f"array_record:{self.output}")
        self.assertLen(again, 6)
        self.assertEqual([again.read(i) for i in range(6)], [source.read(i) for i in range(6)])
        np.testing.assert_array_equal(again.labels, source.labels)
        self.assertEqual(again.class_names, ("class0", "class1"))
        self.assertEqual(source.names[:2], ["class0/0.jpg", "class0/1.jpg"])
        self.assertEqual(again.names, source.names)

    def test_pixels_are_kept_exactly(self):
        images = np.random.default_rng(0).integers(0, 255, (5, 8, 9, 3), dtype=np.uint8)
        prepare(ArraySource("a", images), self.output, Shards())
        again = open_source(f"array_record:{self.output}")
        self.assertIsNone(again.labels)
        self.assertIsNone(again.names)
        for i in range(5):
            np.testing.assert_array_equal(decode(again.read(i), 3), images[i])

    @parameterized.parameters((20, (20, 27)), (64, (30, 40)))
    def test_larger_images_are_resized_by_their_short_side(self, size, want):
        prepare(self.pictures(), self.output, Shards(size=size))
        again = open_source(f"array_record:{self.output}")
        self.assertEqual(decode(again.read(0), 3).shape, (*want, 3))

    def test_corrupt_images_are_left_out_and_named(self):
        source = self.pictures()
        (self.folder / "in" / "class0" / "1.jpg").write_bytes(b"no picture")
        manifest = prepare(source, self.output, Shards())
        self.assertEqual(manifest["examples"], 5)
        self.assertIn("class0/1.jpg", manifest["shards"][0]["left_out"][0])
        np.testing.assert_array_equal(
            open_source(f"array_record:{self.output}").labels, [0, 0, 1, 1, 1]
        )

    def test_a_second_run_makes_only_what_is_missing(self):
        source = self.pictures()
        whole = prepare(source, self.folder / "whole", Shards(per_shard=2))

        class Killed(BaseException):
            pass

        def kill(done):
            if done == 4:
                raise Killed

        with self.assertRaises(Killed):
            prepare(source, self.output, Shards(per_shard=2), kill)
        first = self.output / "data-00000-of-00003.array_record"
        before = first.stat().st_mtime_ns
        self.assertFalse((self.output / "manifest.json").exists())
        self.assertEqual(prepare(source, self.output, Shards(per_shard=2)), whole)
        self.assertEqual(first.stat().st_mtime_ns, before)
        self.assertEqual(prepare(source, self.output, Shards(per_shard=2)), whole)
        self.assertEqual(
            sorted(p.name for p in self.output.iterdir()),
            [f"data-0000{k}-of-00003.array_record" for k in range(3)] + ["manifest.json"],
        )
        self.assertEqual(json.loads((self.output / preparing.MANIFEST).read_text()), whole)

    def test_complaints(self):
        source = self.pictures()
        self.output.mkdir()
        (self.output / "mine.txt").write_text("")
        with self.assertRaisesRegex(UserError, "holds other files; name an empty folder"):
            prepare(source, self.output, Shards())
        other = self.folder / "other"
        prepare(source, other, Shards())
        with self.assertRaisesRegex(UserError, "holds other data or options"):
            prepare(source, other, Shards(size=16))
        with self.assertRaisesRegex(UserError, "cannot write to"):
            prepare(source, self.output / "mine.txt", Shards())
        with self.assertRaisesRegex(UserError, "prepare.quality: expected a whole number in "):
            Shards(quality=0)


if __name__ == "__main__":
    absltest.main()
