"""`arrow:FOLDER`: a data set that the package `datasets` saved with `save_to_disk`, with its splits
or one alone; or the Arrow files of a glob, such as those of its cache.

Columns and splits are named as for `parquet:`. The files are mapped into memory and read in any
order; the package `datasets` is not needed.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ssl_jax.core.errors import UserError
from ssl_jax.core.plain import from_json
from ssl_jax.data import files, table_files
from ssl_jax.data.tables import TableSource

STATE = "state.json"  # beside the files of one split; lists them


class ArrowTable:
    """One file of record batches, in the stream or the file format; see `tables.TableFile`."""

    def __init__(self, name: str, path: str) -> None:
        self.path = path
        if files.is_remote(path):
            raise UserError(f"{name}: {path}: expected a file on this machine, which can be mapped")
        try:
            self._batches, self.schema = _mapped(path)
        except (pa.ArrowException, OSError) as e:
            line = str(e).strip().partition("\n")[0]
            raise UserError(f"{name}: {path} is not a complete Arrow file ({line})") from None
        self.rows: Sequence[int] = [batch.num_rows for batch in self._batches]
        self.sizes: Sequence[int] = [0] * len(self._batches)  # nothing is decoded

    def read_group(self, number: int, column: str) -> pa.ChunkedArray:
        array = self._batches[number].column(column)
        array.validate(full=True)  # the places of values in a corrupt file may be anywhere
        return pa.chunked_array([array])

    def read_column(self, column: str) -> list:
        return [
            value
            for number in range(len(self._batches))
            for value in self.read_group(number, column).to_pylist()
        ]

    def lengths(self, column: str) -> np.ndarray:
        groups = [self.read_group(number, column) for number in range(len(self._batches))]
        counts = [pc.fill_null(pc.list_value_length(group), 0).to_numpy() for group in groups]
        return np.concatenate([np.zeros(0, np.int32), *counts])

    def footer(self) -> bytes:
        return f"{self.rows} {Path(self.path).stat().st_size} {self.schema}".encode()


def _mapped(path: str) -> tuple[list[pa.RecordBatch], pa.Schema]:
    """Map a file of either format into memory."""
    file = pa.memory_map(path)
    try:
        reader = pa.ipc.open_stream(file)
    except pa.ArrowInvalid:
        file.seek(0)
        table = pa.ipc.open_file(file)
        return [table.get_batch(i) for i in range(table.num_record_batches)], table.schema
    return list(reader), reader.schema


def load(path: str, split: str) -> TableSource:
    """Open the rows of the files that `path` (a folder, a file, a glob) names; columns and splits
    as in `parquet.load`.

    Raises:
      UserError: no such file, a corrupt one, or one of the errors of `parquet.load`.
    """
    request = table_files.parse("arrow", path)
    paths = _saved(path, files.matching("arrow", request.pattern, "*.arrow"))
    in_folder = Path(request.pattern).expanduser().is_dir()
    return table_files.load("arrow", path, split, ArrowTable, paths, request, in_folder)


def held_out(path: str) -> TableSource | None:
    """Open the validation or test split of a folder that also holds a training split."""
    request = table_files.parse("arrow", path)
    if request.whole or request.split or not Path(request.pattern).expanduser().is_dir():
        return None
    held = load(path, "eval")
    return held if held.name != f"arrow:{path}" else None


def _saved(path: str, paths: Sequence[str]) -> list[str]:
    """Leave out files that `state.json` beside them does not list: cached results of `map`.

    Raises:
      UserError: the rows are a selection, which lies in other files.
    """
    listed: dict[Path, set[str] | None] = {}
    for folder in {Path(p).parent for p in paths}:
        try:
            state = from_json((folder / STATE).read_bytes())
            names = {entry["filename"] for entry in state["_data_files"]}
        except (OSError, ValueError, KeyError, TypeError):
            listed[folder] = None
            continue
        if state.get("_indices_files") or state.get("_indices_data_files"):
            raise UserError(
                f"arrow:{path}: {folder} holds a selection of rows; save it again with "
                "flatten_indices().save_to_disk(...)"
            )
        listed[folder] = names
    keep = [(p, listed[Path(p).parent]) for p in paths]
    return [p for p, names in keep if names is None or Path(p).name in names]
