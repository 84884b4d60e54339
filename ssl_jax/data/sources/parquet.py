"""`parquet:GLOB`: tables of encoded images, as the Hugging Face hub stores them.

`parquet:GLOB#image=COLUMN&label=COLUMN&caption=COLUMN&name=COLUMN` names columns; `label=` selects
no column. `parquet:FOLDER#.` is all files of a folder whose names separate training and held-out
files, `parquet:FOLDER#split=NAME` those of one split.

Parquet has no access to single rows: a row group is decoded whole. Recently used row groups are
cached, up to `tables.CACHE_BYTES`, so that a set that fits is decoded once; for larger sets
`ssl-jax prepare` writes files that can be read in any order.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ssl_jax.core.errors import UserError
from ssl_jax.data import files, table_files
from ssl_jax.data.tables import TableSource


class ParquetTable:
    """One file, whose footer is read once; see `tables.TableFile`."""

    def __init__(self, name: str, path: str) -> None:
        self.path, self._name = path, name
        try:
            self.metadata: Any = None
            self.metadata = self.open().metadata
        except (pa.ArrowException, OSError) as e:
            line = str(e).strip().partition("\n")[0]
            raise UserError(f"{name}: {path} is not a complete Parquet file ({line})") from None
        self.schema: pa.Schema = self.metadata.schema.to_arrow_schema()
        groups = [self.metadata.row_group(g) for g in range(self.metadata.num_row_groups)]
        self.rows: Sequence[int] = [group.num_rows for group in groups]
        # Sizes of all columns: asking for one column of a corrupt footer ends the process (pyarrow
        # 26.0.1).
        self.sizes: Sequence[int] = [group.total_byte_size for group in groups]

    def open(self) -> pq.ParquetFile:
        """Open a new reader, because readers are not safe to share between threads."""
        if not files.is_remote(self.path):
            return pq.ParquetFile(self.path, metadata=self.metadata, memory_map=True)
        filesystem, path = files.remote_filesystem(self._name.partition(":")[0], self.path)
        return pq.ParquetFile(filesystem.open_input_file(path), metadata=self.metadata)

    def read_group(self, number: int, column: str) -> pa.ChunkedArray:
        return self.open().read_row_group(number, columns=[column], use_threads=False).column(0)

    def read_column(self, column: str) -> list:
        return self.open().read(columns=[column], use_threads=False)[column].to_pylist()

    def lengths(self, column: str) -> np.ndarray:
        schema = self.metadata.schema
        leaves = [schema.column(i).path for i in range(len(schema))]
        leaves = [leaf for leaf in leaves if leaf.startswith(f"{column}.")]
        # The paths of images, if there are any, tell how many there are without reading them.
        leaf = next((leaf for leaf in leaves if leaf.endswith(".path")), column)
        values = self.open().read(columns=[leaf], use_threads=False).column(0)
        return pc.fill_null(pc.list_value_length(values), 0).to_numpy()

    def footer(self) -> bytes:
        self.metadata.write_metadata_file(footer := io.BytesIO())
        return footer.getvalue()


def load(path: str, split: str) -> TableSource:
    """Open the rows of the files that `path` (a file, a folder, a glob, a URL) names.

    Images come from the first of `IMAGE_COLUMNS`, or the first that the Hugging Face metadata
    declare as an image, as bytes, as the path of a file in the folder of the table, or as a struct
    with fields `bytes` or `path`, or as a list of any of these; labels from the first of
    `LABEL_COLUMNS`, numbers (names from the metadata, if any) or strings; captions from the first
    of `CAPTION_COLUMNS` with strings or lists of strings; names from the first of `NAME_COLUMNS`
    with strings. `#image=...` names other columns.

    In a folder whose files name parts, `train-*` and `validation-*`, these are the training files,
    or for evaluation the held-out ones: see `splits.choose_files`.

    Raises:
      UserError: no such file, a corrupt one, no column of images, no row, invalid labels, or a
        column that is missing or has the wrong type.
    """
    request = table_files.parse("parquet", path)
    paths = files.matching("parquet", request.pattern, "*.parquet")
    in_folder = _is_folder(request.pattern)
    return table_files.load("parquet", path, split, ParquetTable, paths, request, in_folder)


def held_out(path: str) -> TableSource | None:
    """Open the validation or test files of a folder that also holds training files."""
    request = table_files.parse("parquet", path)
    if request.whole or request.split or not _is_folder(request.pattern):
        return None
    held = load(path, "eval")
    return held if held.name != f"parquet:{path}" else None


def _is_folder(pattern: str) -> bool:
    return not files.is_remote(pattern) and Path(pattern).expanduser().is_dir()
