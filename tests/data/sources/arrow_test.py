"""Arrow files of the package `datasets`, and lists of images in them and in Parquet files."""

import json
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.data.decode import DecodeError
from ssl_jax.data.sources import absolute, held_out, left_out, open_source
from tests.data.sources.parquet_test import IMAGES, STRUCTS, hub

NOTED = hub(label={"names": ["a", "b"], "_type": "ClassLabel"}, image={"_type": "Image"})
LISTS = [STRUCTS[:2], [], STRUCTS[2:5], None]


def save(folder, files=1, metadata=NOTED, **columns):
    """Write a split like `datasets.Dataset.save_to_disk`: streams of batches and `state.json`."""
    folder.mkdir(parents=True)
    table = pa.table(columns).replace_schema_metadata(metadata)
    names = [f"data-{i:05d}-of-{files:05d}.arrow" for i in range(files)]
    size = -(-len(table) // files)
    for i, name in enumerate(names):
        part = table.slice(i * size, size)
        with pa.ipc.new_stream(str(folder / name), table.schema) as writer:
            writer.write_table(part, max_chunksize=3)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "x"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")


class ArrowTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.root = Path(self.create_tempdir().full_path)

    def test_a_split(self):
        save(self.root / "s", 2, image=STRUCTS, label=[0, 1] * 5, text=[f"c{i}" for i in range(10)])
        for spec in (
            f"arrow:{self.root / 's'}",
            str(self.root / "s"),
            f"arrow:{self.root}/s/*.arrow",
        ):
            source = open_source(spec)
            self.assertEqual([source.read(i) for i in range(10)], IMAGES)
            self.assertEqual(source.class_names, ("a", "b"))
            np.testing.assert_array_equal(source.labels, [0, 1] * 5)
            self.assertEqual(source.captions[7], ["c7"])
            self.assertIn("row 0 of row group 1 of", source.describe(8))
            self.assertIsNone(held_out(spec))
        self.assertEqual(absolute(str(self.root / "s")), f"arrow:{self.root / 's'}")

    def test_splits(self):
        for name, rows in (("train", 6), ("test", 2), ("validation", 3)):
            save(self.root / "d" / name, image=STRUCTS[:rows], label=[0] * rows)
        (self.root / "d" / "dataset_dict.json").write_text('{"splits": []}')
        spec = str(self.root / "d")
        train, held = open_source(spec), held_out(spec)
        self.assertEqual((len(train), len(held)), (6, 3))
        self.assertEqual(
            sorted(left_out(train)),
            [
                "1 test file, neither trained nor evaluated on",
                "1 validation file, held out for evaluation",
            ],
        )
        self.assertNotEqual(train.fingerprint(), held.fingerprint())
        self.assertLen(open_source(f"arrow:{spec}#split=test"), 2)
        self.assertLen(open_source(f"arrow:{spec}#."), 11)
        self.assertIsNone(held_out(f"arrow:{spec}#split=train&label="))
        with self.assertRaisesRegex(UserError, "no split 'val'; it has test, train, validation"):
            open_source(f"arrow:{spec}#split=val")

    def test_files_that_are_not_the_data(self):
        """`datasets` caches the results of `map` beside the data."""
        save(self.root / "s", image=STRUCTS)
        (self.root / "s" / "cache-12.arrow").write_bytes(b"x")
        self.assertLen(open_source(f"arrow:{self.root / 's'}"), 10)
        state = json.loads((self.root / "s" / "state.json").read_text())
        state["_indices_files"] = [{"filename": "indices.arrow"}]
        (self.root / "s" / "state.json").write_text(json.dumps(state))
        with self.assertRaisesRegex(UserError, "a selection of rows; save it again with flatten"):
            open_source(f"arrow:{self.root / 's'}")

    def test_the_file_format(self):
        table = pa.table({"photo": STRUCTS, "species": [1] * 10})
        with pa.ipc.new_file(str(self.root / "x.arrow"), table.schema) as writer:
            writer.write_table(table)
        source = open_source(f"arrow:{self.root}/x.arrow#image=photo&label=species")
        self.assertEqual((source.read(9), source.num_classes), (IMAGES[9], 2))

    def test_damaged(self):
        save(self.root / "s", image=IMAGES)
        (path,) = (self.root / "s").glob("*.arrow")
        whole = path.read_bytes()
        for data in (b"", whole[:20], b"text"):
            path.write_bytes(data)
            with self.assertRaisesRegex(UserError, "is not a complete Arrow file"):
                open_source(f"arrow:{self.root / 's'}")
        # The places of the images in the file, which are in front of them.
        start = whole.index(IMAGES[0]) - 16
        path.write_bytes(whole[:start] + b"\x7f" * 16 + whole[start + 16 :])
        source = open_source(f"arrow:{self.root / 's'}")
        with self.assertRaises(DecodeError):
            source.read(0)
        with self.assertRaisesRegex(UserError, "no such file"):
            open_source("arrow:/nowhere")
        fsspec.filesystem("memory").pipe("/arrow_test/a.arrow", whole)
        with self.assertRaisesRegex(UserError, "on this machine"):
            open_source("arrow:memory://arrow_test/a.arrow")

    @parameterized.product(
        form=["arrow", "parquet"],
        images=[
            pa.array(LISTS),
            pa.array([None if row is None else [x["bytes"] for x in row] for row in LISTS]),
        ],
    )
    def test_lists_of_images(self, form, images):
        """Every image is an example, with what its row says."""
        columns = dict(images=images, label=[1, 0, 0, 1], file_name=["p", "q", "r", "s"])
        if form == "arrow":
            save(self.root / "s", 1, **columns)
            spec = f"arrow:{self.root / 's'}"
        else:
            pq.write_table(pa.table(columns), self.root / "x.parquet", row_group_size=3)
            spec = f"parquet:{self.root / 'x.parquet'}"
        source = open_source(spec)
        self.assertEqual([source.read(i) for i in range(5)], IMAGES[:5])
        np.testing.assert_array_equal(source.labels, [1, 1, 0, 0, 0])
        self.assertEqual(source.names, ["p", "p", "r", "r", "r"])
        self.assertEqual(left_out(source), ["2 rows without an image in column images"])
        self.assertIn("image 2 of row 2 of row group 0 of", source.describe(4))
        self.assertTrue(source.matches(open_source(spec).fingerprint()))

    @pytest.mark.full
    def test_what_the_package_saves(self):
        datasets = pytest.importorskip("datasets")
        features = datasets.Features(
            {
                "image": datasets.Image(),
                "label": datasets.ClassLabel(names=["cat", "dog"]),
                "more": datasets.List(datasets.Image()),
            }
        )
        rows = dict(image=STRUCTS, label=[0, 1] * 5, more=[STRUCTS[:2]] * 10)
        every = datasets.Dataset.from_dict(rows, features)
        parts = {"train": every.select([4, 2, 0]), "test": every.select(range(2))}
        datasets.DatasetDict(parts).save_to_disk(str(self.root / "d"))
        train, held = open_source(str(self.root / "d")), held_out(str(self.root / "d"))
        self.assertEqual([train.read(i) for i in range(3)], [IMAGES[i] for i in (4, 2, 0)])
        self.assertEqual((train.class_names, len(held)), (("cat", "dog"), 2))
        self.assertLen(open_source(f"arrow:{self.root}/d#image=more"), 6)


if __name__ == "__main__":
    absltest.main()
