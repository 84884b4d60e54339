"""Tables in three formats hold the same values; names of any kind survive."""

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.run import table_files

COLUMNS = {
    "name": ['a"b,c', "line\nbreak", "é.png"],
    "index": [0, 5, 7],
    "confidence": [0.1, 0.25, 1.0],
}


class TableFilesTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)

    def test_the_formats_hold_the_same(self):
        rows = [dict(zip(COLUMNS, row, strict=True)) for row in zip(*COLUMNS.values(), strict=True)]
        for suffix in table_files.SUFFIXES:
            table_files.write(self.folder / f"t{suffix}", COLUMNS)
        self.assertEqual(json.loads((self.folder / "t.json").read_text()), rows)
        self.assertEqual(pq.read_table(self.folder / "t.parquet").to_pylist(), rows)
        with (self.folder / "t.csv").open(newline="", encoding="utf-8") as file:
            texts = list(csv.DictReader(file))
        self.assertEqual([row["name"] for row in texts], COLUMNS["name"])
        self.assertEqual([float(row["confidence"]) for row in texts], COLUMNS["confidence"])

    def test_a_table_without_rows_has_its_columns(self):
        table_files.write(self.folder / "t.csv", {"name": [], "index": []})
        self.assertEqual((self.folder / "t.csv").read_text(), '"name","index"\n')

    @parameterized.parameters(
        ("t.xls", "expected one of FILE.csv, FILE.json, FILE.parquet"),
        ("none/t.csv", "no folder"),
    )
    def test_a_path_that_cannot_be_written(self, name, message):
        with self.assertRaisesRegex(UserError, message):
            table_files.check(self.folder / name)


if __name__ == "__main__":
    absltest.main()
