"""Data sets of the hub, from a cache laid out as huggingface_hub does; the hub is not reached."""

from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
from absl.testing import absltest, parameterized
from huggingface_hub import constants

from ssl_jax.core.errors import UserError
from ssl_jax.data.sources import absolute, held_out, open_source
from tests.data.sources.parquet_test import IMAGES, STRUCTS


class HubTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.cache = Path(self.create_tempdir().full_path)
        self.enterContext(mock.patch.object(constants, "HF_HUB_OFFLINE", True))
        self.enterContext(mock.patch.object(constants, "HF_HUB_CACHE", str(self.cache)))

    def save(self, name, files, revision="main", commit="a" * 40):
        """Write files of some rows each into the cache."""
        root = self.cache / f"datasets--{name.replace('/', '--')}"
        ref = root / "refs" / revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(commit)
        for path, rows in files.items():
            file = root / "snapshots" / commit / path
            file.parent.mkdir(parents=True, exist_ok=True)
            table = pa.table(
                {"image": STRUCTS[:rows], "photo": STRUCTS[-rows:], "label": [0] * rows}
            )
            pq.write_table(table, file)

    def test_splits_of_a_repository(self):
        rows = {"train-00000-of-00002": 4, "train-00001-of-00002": 3, "test-00000-of-00001": 2}
        self.save("me/set", {f"data/{name}.parquet": count for name, count in rows.items()})
        spec = "hf://me/set"
        self.assertEqual((len(open_source(spec)), len(held_out(spec))), (7, 2))
        self.assertEqual(open_source(spec).name, spec)
        self.assertEqual(absolute(spec), spec)
        for more, rows in (("#split=test", 2), ("#.", 9), ("@main", 7), ("/data#split=train", 7)):
            self.assertLen(open_source(spec + more), rows)
        self.assertEqual(open_source(f"{spec}#split=test&image=photo&label=").read(1), IMAGES[9])
        with self.assertRaisesRegex(UserError, "no split 'dev'; it has test, train"):
            open_source(f"{spec}#split=dev")
        with self.assertRaisesRegex(UserError, "unknown 'columns=x' after '#'"):
            open_source(f"{spec}#columns=x")

    def test_files_that_the_hub_converted(self):
        (self.cache / "datasets--me--csv" / "refs").mkdir(parents=True)
        (self.cache / "datasets--me--csv" / "refs" / "main").write_text("b" * 40)
        (self.cache / "datasets--me--csv" / "snapshots" / ("b" * 40)).mkdir(parents=True)
        with self.assertRaisesRegex(UserError, "hf://me/csv: no Parquet file in it"):
            open_source("hf://me/csv")
        files = {"default/train/0000.parquet": 4, "default/validation/0000.parquet": 1}
        self.save("me/csv", files, "refs/convert/parquet")
        self.assertEqual((len(open_source("hf://me/csv")), len(held_out("hf://me/csv"))), (4, 1))

    def test_configurations(self):
        self.save("me/two", {"small/train-00000-of-00001.parquet": 2, "big/train/0000.parquet": 5})
        self.assertLen(open_source("hf://me/two/big"), 5)
        with self.assertRaisesRegex(
            UserError, r"several configurations; .* hf://me/two/big \(big, "
        ):
            open_source("hf://me/two")
        with self.assertRaisesRegex(UserError, "no configuration huge; it has big, small"):
            open_source("hf://me/two/huge")

    @parameterized.parameters(
        ("hf://me/none", "not in the cache"),
        ("hf:me/none", "expected hf://USER/NAME"),
        ("hf://me/../none", "expected hf://USER/NAME"),
    )
    def test_no_data_set(self, spec, message):
        with self.assertRaisesRegex(UserError, message):
            open_source(spec)


if __name__ == "__main__":
    absltest.main()
