import json
import os
from pathlib import Path
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized
from array_record.python.array_record_module import ArrayRecordWriter

from ssl_jax.core.errors import UserError
from ssl_jax.data import records
from ssl_jax.data.decode import DecodeError
from ssl_jax.data.sources import array_record, open_source


def write(path: Path, rows) -> None:
    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for row in rows:
        writer.write(row if isinstance(row, bytes) else records.encode(row))
    writer.close()


class ArrayRecordTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.root = Path(self.create_tempdir().full_path)
        place = self.create_tempdir().full_path
        self.enterContext(mock.patch.dict(os.environ, {"SSL_JAX_CACHE": place}))

    def open(self, *rows, shards=1):
        for s in range(shards):
            part = rows[len(rows) * s // shards : len(rows) * (s + 1) // shards]
            write(self.root / f"x.array_record-{s:05}-of-{shards:05}", part)
        return open_source(f"array_record:{self.root}")

    @parameterized.parameters(1, 3)
    def test_images_labels_and_captions(self, shards):
        rows = [records.Record(b"i%d" % i, i % 3 - 1, (f"a {i}", "b")) for i in range(7)]
        source = self.open(*rows, shards=shards)
        self.assertEqual([source.read(i) for i in range(7)], [row.image for row in rows])
        np.testing.assert_array_equal(source.labels, [-1, 0, 1, -1, 0, 1, -1])
        self.assertEqual((source.labels.dtype, source.class_names), (np.int32, ("0", "1")))
        self.assertEqual(source.captions, [list(row.captions) for row in rows])
        glob = open_source(f"array_record:{self.root}/x.array_record-*")
        self.assertEqual(glob.fingerprint(), source.fingerprint())

    def test_fingerprint_sees_labels_and_pixels(self):
        rows = [records.Record(b"i%d" % i, i % 3) for i in range(7)]
        made = [
            self.open(*changed).fingerprint()
            for changed in (
                rows,
                [*rows[:3], rows[3]._replace(label=1), *rows[4:]],
                [*rows[:3], rows[3]._replace(image=b"j3"), *rows[4:]],
            )
        ]
        self.assertLen(set(made), 3)

    def test_a_manifest_spares_the_pass_over_the_data(self):
        self.open(*[records.Record(b"image", 0)] * 3)
        (shard,) = self.root.iterdir()
        made = []
        for digest in "ab":
            manifest = {"class_names": ["x"], "shards": [{"name": shard.name, "blake2b": digest}]}
            (self.root / "manifest.json").write_text(json.dumps(manifest))
            source = open_source(f"array_record:{self.root}")
            made.append(source.fingerprint())
            self.assertNotIn("_scan", vars(source))
        self.assertNotEqual(*made)

    def test_a_label_that_is_none_is_said(self):
        data = records.encode_features({"image": [b"i"], "label": [b"cat"]})
        source = self.open(data, data)
        self.assertIsNone(source.labels)
        why = "labels: the first is text, not one whole number"
        self.assertEqual(source.left_out, {why: 2})

    def test_names(self):
        rows = [records.Record(b"image", name=f"{i}.png") for i in range(3)]
        rows[1] = b"broken"
        before = self.open(*(records.Record(b"image", 0) for _ in range(3)))
        self.assertIsNone(before.names)
        self.assertEqual(self.open(*rows).names, ["0.png", "", "2.png"])
        self.assertEqual(self.open(*rows).names, ["0.png", "", "2.png"])  # remembered

    def test_without_labels_no_pass_over_the_data(self):
        rows = [records.Record(b"image")] * 3
        with mock.patch.object(array_record.cache, "load") as load:
            source = self.open(*rows)
            self.assertIsNone(source.labels)
            self.assertIsNone(source.captions)
            self.assertEqual(source.num_classes, 0)
        load.assert_not_called()

    def test_labels_are_read_once_and_remembered(self):
        rows = [records.Record(b"image", i, ("c",) * i) for i in range(4)]
        rows[0] = records.Record(b"image", 0, ("first",))
        first = self.open(*rows)
        self.assertEqual(first.labels.tolist(), [0, 1, 2, 3])
        again = open_source(first.name)
        with mock.patch.object(again, "_read_rows", side_effect=AssertionError):
            self.assertEqual(again.labels.tolist(), [0, 1, 2, 3])
            self.assertEqual(again.captions, first.captions)
        write(next(self.root.iterdir()), rows[::-1])  # of the same size
        self.assertEqual(open_source(first.name).labels.tolist(), [3, 2, 1, 0])

    def test_a_manifest_names_the_classes(self):
        manifest = self.root / "manifest.json"
        manifest.write_text(json.dumps({"class_names": ["cat", "dog"]}))
        source = self.open(records.Record(b"image", 1), records.Record(b"image", 0))
        self.assertEqual((source.class_names, source.num_classes), (("cat", "dog"), 2))
        self.assertEqual(source.labels.tolist(), [1, 0])
        source = self.open(records.Record(b"image", 1), records.Record(b"image", 2))
        with self.assertRaisesRegex(UserError, "label 2 at index 1 is out of range"):
            _ = source.labels
        self.assertEqual(self.open(records.Record(b"image")).class_names, ())
        manifest.write_text("[")
        with self.assertRaisesRegex(UserError, "manifest.json is not a JSON object"):
            open_source(source.name)

    def test_a_broken_record_costs_itself_only(self):
        source = self.open(records.Record(b"a", 0), b"no example", records.Record(b"c", 2))
        with self.assertRaisesRegex(DecodeError, "not a tf.train.Example"):
            source.read(1)
        self.assertEqual(source.read(2), b"c")
        self.assertEqual(source.labels.tolist(), [0, -1, 2])

    def test_a_damaged_block_costs_itself_only(self):
        rows = [records.Record(bytes([65 + i]) * 5000, i) for i in range(3)]
        name = self.open(*rows).name
        (shard,) = self.root.iterdir()
        data = shard.read_bytes()
        at = data.index(b"B" * 100)
        shard.write_bytes(data[:at] + b"X" * 50 + data[at + 50 :])
        source = open_source(name)
        with self.assertRaises(DecodeError):
            source.read(1)
        self.assertEqual([source.read(0), source.read(2)], [rows[0].image, rows[2].image])
        self.assertEqual(source.labels.tolist(), [0, -1, 2])

    def test_no_whole_file(self):
        name = self.open(*[records.Record(b"image" * 5000)] * 20).name
        (shard,) = self.root.iterdir()
        whole = shard.read_bytes()
        for data in (b"", b"text", whole[: len(whole) // 2], bytes(len(whole))):
            shard.write_bytes(data)
            with self.assertRaisesRegex(UserError, "array_record:.*(not complete|cannot be read)"):
                open_source(name)

    def test_bad(self):
        with self.assertRaisesRegex(UserError, "no such file"):
            open_source("array_record:/nowhere/*")
        with self.assertRaisesRegex(UserError, "no record in it"):
            self.open()
        with self.assertRaisesRegex(UserError, "not a tf.train.Example"):
            self.open(b"text")
        with self.assertRaisesRegex(UserError, "no image under .* it holds label"):
            self.open(records.encode_features({"label": [1]}))
        with self.assertRaisesRegex(UserError, "array_record:.* cannot be opened"):
            open_source("array_record:nowhere://bucket/x-*")


if __name__ == "__main__":
    absltest.main()
