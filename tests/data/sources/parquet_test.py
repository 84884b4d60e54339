import json
import threading
from pathlib import Path
from unittest import mock

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.data import tables
from ssl_jax.data.decode import DecodeError
from ssl_jax.data.sources import held_out, open_source

IMAGES = [b"image %d" % i for i in range(10)]
STRUCTS = [{"bytes": b, "path": None} for b in IMAGES]


def hub(**features) -> dict[bytes, bytes]:
    """Metadata as the package `datasets` writes it."""
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


class ParquetTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.root = Path(self.create_tempdir().full_path)

    def write(self, name="a.parquet", metadata=None, group=3, **columns) -> str:
        table = pa.table(columns).replace_schema_metadata(metadata)
        pq.write_table(table, self.root / name, row_group_size=group)
        return f"parquet:{self.root / name}"

    @parameterized.product(
        column=["image", "img"],
        images=[
            pa.array(IMAGES),
            pa.array(IMAGES, pa.large_binary()),
            pa.array(STRUCTS),
            pa.array([{"path": "x", "bytes": b} for b in IMAGES]),
        ],
    )
    def test_images(self, column, images):
        source = open_source(self.write(**{column: images, "other": list(range(10))}))
        self.assertEqual([source.read(i) for i in range(10)], IMAGES)
        self.assertIsNone(source.labels)
        self.assertIsNone(source.captions)
        self.assertEqual((len(source), source.num_classes), (10, 0))
        self.assertIn("row 1 of row group 2 of", source.describe(7))

    @parameterized.parameters("file_name", "filename", "path")
    def test_names(self, column):
        names = [f"{i}.png" for i in range(10)]
        source = open_source(self.write(image=IMAGES, **{column: names}))
        self.assertEqual(source.names, names)
        self.assertIsNone(open_source(self.write(image=IMAGES)).names)
        self.assertIsNone(open_source(self.write(image=IMAGES, path=list(range(10)))).names)

    def test_several_files_in_the_order_of_their_names(self):
        self.write("b.parquet", image=IMAGES[4:], label=[2] * 6)
        self.write("a.parquet", image=IMAGES[:4], label=[0, 1, 2, 3])
        self.write("c.parquet", image=pa.array([], pa.binary()), label=pa.array([], pa.int64()))
        for spec in (f"parquet:{self.root}", f"parquet:{self.root}/*.parquet"):
            source = open_source(spec)
            self.assertEqual([source.read(i) for i in range(10)], IMAGES)
            np.testing.assert_array_equal(source.labels, [0, 1, 2, 3] + [2] * 6)

    @parameterized.named_parameters(
        ("numbers", [0, 2, 1], None, [0, 2, 1], ("0", "1", "2")),
        ("none", [0, None, -1], None, [0, -1, -1], ("0",)),
        ("names", ["b", "a", "b"], None, [1, 0, 1], ("a", "b")),
        ("coded", pa.array(["b", "a", "b"]).dictionary_encode(), None, [1, 0, 1], ("a", "b")),
        ("hub", [1, 0, -1], ["dog", "cat"], [1, 0, -1], ("dog", "cat")),
    )
    def test_labels(self, values, names, want, classes):
        noted = hub(fine_label={"names": names, "_type": "ClassLabel"}) if names else None
        source = open_source(self.write(metadata=noted, image=IMAGES[:3], fine_label=values))
        np.testing.assert_array_equal(source.labels, want)
        self.assertEqual((source.labels.dtype, source.class_names), (np.int32, classes))

    def test_labels_with_gaps_and_of_bools(self):
        nan = float("nan")
        for values, want in (
            (pa.array([0.0, nan, 2.0, None]), [0, -1, 2, -1]),
            (pa.array([True, False, None, True]), [1, 0, -1, 1]),
        ):
            source = open_source(self.write(image=IMAGES[:4], label=values))
            self.assertEqual(source.labels.tolist(), want)

    def test_columns_that_are_no_labels(self):
        boxes = [[[1.0, 2.0]], [[3.0, 4.0]]]
        spec = self.write(image=IMAGES[:2], label=boxes, cls=[1, 0], half=[0.5, 1.0])
        expected = "column label is list<.*expected numbers or texts, or lists of them"
        with self.assertRaisesRegex(UserError, expected):
            open_source(spec)
        with self.assertRaisesRegex(UserError, "label 0.5 at index 0 is not a class"):
            open_source(f"{spec}#label=half")
        self.assertIsNone(open_source(f"{spec}#label=").labels)
        self.assertEqual(open_source(f"{spec}#label=cls").labels.tolist(), [1, 0])

    def test_named_columns(self):
        columns = dict(photo=IMAGES, image=["no"] * 10, species=["a", "b"] * 5, say=["x"] * 10)
        spec = f"{self.write(**columns)}#image=photo&label=species&caption=say&name=say"
        source = open_source(spec)
        self.assertEqual((source.read(3), source.class_names), (IMAGES[3], ("a", "b")))
        self.assertEqual((source.captions[0], source.names[0]), (["x"], "x"))
        for fragment, message in (
            ("image=foto", "no column 'foto'; did you mean 'photo'"),
            ("image=photo&label=speces", "no column 'speces'; did you mean 'species'"),
            ("images=photo", "unknown 'images=photo' after '#'; did you mean 'image'"),
            ("image=species", "column species, row 0: .*No such file"),
        ):
            with self.assertRaisesRegex(UserError, message):
                open_source(f"{self.write(**columns)}#{fragment}")

    def test_paths_of_files(self):
        (self.root / "a b.png").write_bytes(IMAGES[0])
        root = str(self.root)
        for path in ("a b.png", f"{root}/a b.png", f"file://{root}/a%20b.png"):
            for value in (path, {"path": path}, {"bytes": None, "path": path}):
                self.assertEqual(open_source(self.write(image=[value])).read(0), IMAGES[0])
        for path, message in (
            ("https://x.org/1.png", "images are not fetched from URLs"),
            ("../1.png", "leads out of .*, the folder of the table; move"),
            ("/etc/passwd", "leads out of"),
            ("none.png", "none.png: No such file"),
        ):
            with self.assertRaisesRegex(UserError, f"column image, row 0: .*{message}"):
                open_source(self.write(image=[path]))

    def test_the_held_out_files_of_a_folder(self):
        for i, part in enumerate(("train", "validation", "test")):
            self.write(f"{part}-00000-of-00001.parquet", image=[IMAGES[i]])
        spec = f"parquet:{self.root}"
        train, held = open_source(spec), held_out(spec)
        self.assertEqual((len(train), train.read(0)), (1, IMAGES[0]))
        self.assertEqual((len(held), held.read(0)), (1, IMAGES[1]))
        self.assertLen(train.left_out, 2)
        self.assertLen(open_source(f"{spec}#."), 3)
        self.assertLen(open_source(f"{spec}/*.parquet"), 3)

    def test_the_image_column_of_the_metadata(self):
        noted = hub(photo={"_type": "Image"}, label={"names": ["a"], "_type": "ClassLabel"})
        source = open_source(self.write(metadata=noted, photo=STRUCTS, label=[0] * 10))
        self.assertEqual(source.read(9), IMAGES[9])
        self.assertEqual(source.class_names, ("a",))

    def test_captions(self):
        source = open_source(self.write(image=IMAGES[:2], captions=[["a", "", "b"], None]))
        self.assertEqual(source.captions, [["a", "b"], []])
        source = open_source(self.write(image=IMAGES[:3], text=["a", None, "c"]))
        self.assertEqual(source.captions, [["a"], [], ["c"]])

    def test_a_row_without_an_image(self):
        source = open_source(self.write(image=pa.array([STRUCTS[0], None, {"bytes": None}])))
        for i in (1, 2):
            with self.assertRaisesRegex(DecodeError, "no image bytes"):
                source.read(i)
        self.assertEqual(source.read(0), IMAGES[0])

    def test_fingerprint(self):
        (self.root / "b").mkdir()
        specs = [self.write(name, image=IMAGES) for name in ("a.parquet", "b/a.parquet")]
        same = {open_source(s).fingerprint() for s in specs}
        self.assertLen(same, 1)
        changed = [
            open_source(self.write(image=IMAGES, label=[0] * 10)).fingerprint(),
            open_source(self.write(image=IMAGES, label=[0] * 9 + [1])).fingerprint(),
            open_source(self.write(image=IMAGES[:9])).fingerprint(),
        ]
        self.assertLen(same.union(changed), 4)
        captions = [
            open_source(self.write(image=images, text=[text] * 10)).fingerprint()
            for images in (IMAGES, IMAGES[::-1])
            for text in "xy"
        ]
        self.assertLen(set(captions), 4)

    def test_a_file_cut_short_or_damaged_within(self):
        spec = self.write(image=IMAGES, label=[0] * 10)
        file = self.root / "a.parquet"
        whole = file.read_bytes()
        for data in (b"", whole[:100], whole[:-8], b"text"):
            file.write_bytes(data)
            with self.assertRaisesRegex(UserError, "a.parquet is not a complete Parquet file"):
                open_source(spec)
        file.write_bytes(whole)
        chunk = pq.ParquetFile(file).metadata.row_group(1).column(0)
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        size = chunk.total_compressed_size
        file.write_bytes(whole[:start] + b"\xff" * size + whole[start + size :])
        source = open_source(spec)
        self.assertEqual(source.read(0), IMAGES[0])
        for _ in range(2):  # a failure is not kept
            with self.assertRaises((DecodeError, OSError)):
                source.read(3)
        self.assertEqual(source.read(9), IMAGES[9])

    @parameterized.named_parameters(
        ("column", {"z": IMAGES}, "no column image or img or .*; it has z"),
        ("kind", {"image": [1, 2]}, "column image is int64; expected the bytes"),
        ("struct", {"image": [{"url": "x"}]}, "column image is struct"),
        ("list", {"image": [[1]]}, "column image is list.*expected the bytes .* lists of them"),
        ("lists", {"image": pa.array([[], None], pa.list_(pa.binary()))}, "no image in the lists"),
        ("empty", {"image": pa.array([], pa.binary())}, "no row in it"),
        ("label", {"image": IMAGES[:1], "label": [-2]}, "label -2 at index 0"),
    )
    def test_bad(self, columns, message):
        with self.assertRaisesRegex(UserError, message):
            open_source(self.write(**columns))

    def test_no_file(self):
        for path in ("/nowhere/*.parquet", str(self.root), ""):
            with self.assertRaisesRegex(UserError, "no such file"):
                open_source(f"parquet:{path}")
        with self.assertRaisesRegex(UserError, "cannot be opened"):
            open_source("parquet:nowhere://x/*.parquet")

    def test_labels_beyond_the_class_names(self):
        noted = hub(label={"names": ["a", "b"], "_type": "ClassLabel"})
        spec = self.write(metadata=noted, image=IMAGES[:2], label=[0, 2])
        with self.assertRaisesRegex(UserError, "label 2 at index 1 is out of range; .* 0 to 1"):
            open_source(spec)

    def test_a_file_without_the_column_of_the_others(self):
        self.write("a.parquet", image=IMAGES)
        self.write("b.parquet", img=IMAGES)
        with self.assertRaisesRegex(UserError, "expected a column image in .*b.parquet"):
            open_source(f"parquet:{self.root}")

    def test_remote(self):
        self.write(image=STRUCTS, label=list(range(10)))
        filesystem = fsspec.filesystem("memory")
        filesystem.pipe("/parquet_test/a.parquet", (self.root / "a.parquet").read_bytes())
        source = open_source("parquet:memory://parquet_test/*.parquet")
        self.assertEqual([source.read(i) for i in (9, 0)], [IMAGES[9], IMAGES[0]])
        self.assertEqual(source.num_classes, 10)

    def test_a_set_larger_than_the_cache_is_told(self):
        spec = self.write(image=IMAGES)
        with mock.patch.object(tables, "CACHE_BYTES", 50), self.assertLogs("absl") as logs:
            source = open_source(spec)
        self.assertIn("ssl-jax prepare", logs.output[0])
        self.assertEqual([source.read(i) for i in range(10)], IMAGES)
        with self.assertNoLogs("absl"):
            open_source(spec)


class RecentGroupsTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.loads = []

    def groups(self, budget):
        def load(group):
            self.loads.append(group)
            return pa.chunked_array([pa.array([group] * 10, pa.int64())])  # 80 bytes

        return tables.RecentGroups(load, budget)

    def test_the_last_used_are_kept(self):
        groups = self.groups(170)
        for group in (0, 1, 0, 2, 0, 1):
            self.assertEqual(groups[group][3].as_py(), group)
        self.assertEqual(self.loads, [0, 1, 2, 1])

    def test_one_larger_than_the_budget_is_kept_alone(self):
        groups = self.groups(10)
        for group in (0, 0, 1, 1):
            self.assertEqual(groups[group][0].as_py(), group)
        self.assertEqual(self.loads, [0, 1])

    def test_threads_that_ask_together_load_once(self):
        entered, go = threading.Event(), threading.Event()
        loads, rows = [], []

        def load(group):
            loads.append(group)
            entered.set()
            go.wait(10)
            return pa.chunked_array([pa.array([group])])

        groups = tables.RecentGroups(load, 100)
        threads = [
            threading.Thread(target=lambda: rows.append(groups[7][0].as_py())) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        entered.wait(10)
        go.set()
        for thread in threads:
            thread.join(10)
        self.assertEqual((loads, rows), ([7], [7] * 4))


if __name__ == "__main__":
    absltest.main()
