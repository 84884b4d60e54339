"""`parquet:GLOB`: tables of encoded images, as the Hugging Face hub stores them.

`parquet:GLOB#image=COLUMN&label=COLUMN&caption=COLUMN&name=COLUMN` names columns; `label=` selects
no column. `parquet:FOLDER#.` is all files of a folder whose names separate training and held-out
files.

Parquet has no access to single rows: a row group is decoded whole. Recently used row groups are
cached, up to `CACHE_BYTES`, so that a set that fits is decoded once; for larger sets
`ssl-jax prepare` writes files that can be read in any order.
"""

import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from absl import logging

from ssl_jax.core.errors import UserError, suggest
from ssl_jax.data import files
from ssl_jax.data.columns import (
    CAPTION_COLUMNS,
    COLUMNS,
    LABEL_COLUMNS,
    NAME_COLUMNS,
    Columns,
    features_of,
    image_column,
    is_labels,
    is_list,
    is_string,
    is_struct,
    is_text,
)
from ssl_jax.data.decode import DecodeError, check_size
from ssl_jax.data.label_sets import number_label_sets
from ssl_jax.data.labels import number_labels
from ssl_jax.data.sources.base import Source
from ssl_jax.data.splits import choose_files
from ssl_jax.data.text import without_halves

LONG_LOOK = 16 << 30  # bytes; fingerprints of larger sets omit the captions
CACHE_BYTES = 2 << 30
MAX_GROUP_BYTES = 8 << 30  # largest row group
_OPENERS = 16  # files whose footers are read in parallel


class ParquetSource(Source):
    """Rows of the files `tables`, in order.

    Args:
      name: name that the user gave.
      columns: column that the user names for each of `COLUMNS`; "" is none.
    """

    def __init__(
        self,
        name: str,
        tables: list["ParquetTable"],
        columns: Mapping[str, str] | None = None,
        left_out: Mapping[str, int] | None = None,
    ) -> None:
        self.name, self.left_out = name, left_out or {}
        self._tables, columns = tables, columns or {}
        schema = tables[0].metadata.schema.to_arrow_schema()
        features = features_of(schema)
        self._image = image_column(name, schema, features, columns.get("image"))
        for table in tables[1:]:
            other = table.metadata.schema.to_arrow_schema()
            if self._image not in other.names:
                raise UserError(f"{name}: expected a column {self._image} in {table.path}")
        groups = [(t, g) for t in tables for g in range(t.metadata.num_row_groups)]
        groups = [(t, g) for t, g in groups if t.metadata.row_group(g).num_rows]
        rows = [t.metadata.row_group(g).num_rows for t, g in groups]
        if not rows:
            raise UserError(f"{name}: no row in it")
        self._groups = groups
        self._first = np.concatenate([[0], np.cumsum(rows)])
        self._cache = RecentGroups(self._read_group, CACHE_BYTES)
        column = Columns(name, schema, columns)
        self._captions = column.find("caption", CAPTION_COLUMNS, is_text, "texts, or lists of them")
        self._name = column.find("name", NAME_COLUMNS, is_string, "texts")
        expected = "numbers or texts, or lists of them"
        label = column.find("label", LABEL_COLUMNS, is_labels, expected, strict=True)
        self.labels, self.label_sets = None, None
        names: tuple[str, ...] = ()
        if label is not None:
            values, classes = self._read_column(label), self._class_names(label, features)
            if is_list(schema.field(label).type):
                self.label_sets, names = number_label_sets(values, name, classes)
            else:
                self.labels, names = number_labels(values, name, classes)
        self.class_names = names
        self._check_paths()
        self._check_size()

    @cached_property
    def captions(self) -> Sequence[Sequence[str]] | None:  # type: ignore[override]
        if self._captions is None:
            return None
        values = self._read_column(self._captions)
        return [[v] if isinstance(v, str) else [c for c in v or () if c] for v in values]

    @cached_property
    def names(self) -> Sequence[str] | None:  # type: ignore[override]
        if self._name is None:
            return None
        return [name or "" for name in self._read_column(self._name)]

    def __len__(self) -> int:
        return int(self._first[-1])

    def read(self, index: int) -> bytes:
        group, row = self._place(index)
        column = self._cache[group]
        if row >= len(column):
            raise DecodeError("the row group has fewer rows than its metadata say")
        value: Any = column[row].as_py()
        if isinstance(value, dict):
            value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
        if isinstance(value, str) and value:
            return _read_file(value, self._groups[group][0].path)
        if not value and value != b"":
            raise DecodeError("the row holds no image bytes")
        return value

    def describe(self, index: int) -> str:
        group, row = self._place(index)
        table, number = self._groups[group]
        return f"row {row} of row group {number} of {table.path}"

    def layout(self) -> str:
        """Digest the file names, the footers (positions and value ranges of all columns), and the
        labels.
        """
        digest = hashlib.blake2b(digest_size=16)
        for table in self._tables:
            digest.update(f"{Path(table.path).name}\n".encode())
            table.metadata.write_metadata_file(footer := io.BytesIO())
            digest.update(footer.getbuffer())
        if self.labels is not None:
            digest.update(self.labels.tobytes())
        if self.label_sets is not None:
            digest.update(self.label_sets.tobytes())
        return digest.hexdigest()

    def content(self) -> Iterator[bytes]:
        """Yield labels, class names, captions (in sets up to `LONG_LOOK`), the selected columns and
        a sample of the bytes of the files.
        """
        paths = [table.path for table in self._tables]
        sizes = [files.size_and_time("parquet", path)[0] for path in paths]
        yield repr((self._image, self._captions, self.class_names)).encode("utf-8", "surrogatepass")
        if self._captions and sum(sizes) <= LONG_LOOK:
            yield from super().content()
        yield files.sample(paths, sizes, "parquet")

    def _place(self, index: int) -> tuple[int, int]:
        group = int(np.searchsorted(self._first, index, "right")) - 1
        return group, int(index - self._first[group])

    def _read_group(self, group: int) -> pa.ChunkedArray:
        table, number = self._groups[group]
        try:
            rows = table.open().read_row_group(number, columns=[self._image], use_threads=False)
        except pa.ArrowException as e:
            raise DecodeError(f"{_line(e)} in {table.path}") from None
        return rows.column(0)

    def _read_column(self, column: str) -> list:
        def read(table: ParquetTable) -> list:
            try:
                return table.open().read(columns=[column], use_threads=False)[column].to_pylist()
            except (pa.ArrowException, OSError, KeyError) as e:
                raise UserError(
                    f"{self.name}: column {column} of {table.path}: {_line(e)}"
                ) from None

        values = [value for some in _map(read, self._tables) for value in some]
        if len(values) != len(self):
            raise UserError(f"{self.name}: column {column} has {len(values)} rows for {len(self)}")
        return values

    def _class_names(self, column: str, features: dict) -> tuple[str, ...]:
        """Return the class names in the metadata of a column of labels, or of lists of them."""
        feature = features.get(column)
        feature = feature.get("feature", feature) if isinstance(feature, dict) else feature
        names = feature.get("names") if isinstance(feature, dict) else None
        valid = isinstance(names, list) and all(isinstance(n, str) for n in names)
        return tuple(map(without_halves, names or ())) if valid else ()

    def _check_paths(self) -> None:
        """Raise `UserError` if images are separate files and the first cannot be read."""
        kind = self._tables[0].metadata.schema.to_arrow_schema().field(self._image).type
        if not is_string(kind) and not (is_struct(kind) and kind.get_field_index("bytes") < 0):
            return
        try:
            self.read(0)
        except (DecodeError, OSError) as e:
            where = f"{self.name}: column {self._image}, row 0: "
            reason = f"{e.filename}: {e.strerror}" if isinstance(e, OSError) else str(e)
            raise UserError(where + reason) from None

    def _check_size(self) -> None:
        """Raise `UserError` for a row group that is too large; warn about slow sets."""
        # Sizes of all columns: asking for one column of a corrupt footer ends the process (pyarrow
        # 26.0.1).
        sizes = [t.metadata.row_group(g).total_byte_size for t, g in self._groups]
        if max(sizes) > MAX_GROUP_BYTES:
            table, number = self._groups[int(np.argmax(sizes))]
            raise UserError(
                f"{self.name}: expected row groups of at most {MAX_GROUP_BYTES >> 30} GiB, which "
                f"are read whole; got {max(sizes) >> 30} GiB in row group {number} of {table.path}"
            )
        size = sum(sizes)
        if size > CACHE_BYTES:
            logging.warning(
                "%s: %.1f GiB in row groups that are decoded whole, of which %.1f GiB are cached: "
                "random order is slow; `ssl-jax prepare` writes files for fast random access",
                self.name,
                size / 2**30,
                CACHE_BYTES / 2**30,
            )


class ParquetTable:
    """One file, whose footer is read once."""

    def __init__(self, name: str, path: str) -> None:
        self.path, self._name = path, name
        try:
            self.metadata: Any = None
            self.metadata = self.open().metadata
        except (pa.ArrowException, OSError) as e:
            raise UserError(f"{name}: {path} is not a complete Parquet file ({_line(e)})") from None

    def open(self) -> pq.ParquetFile:
        """Open a new reader, because readers are not safe to share between threads."""
        if not files.is_remote(self.path):
            return pq.ParquetFile(self.path, metadata=self.metadata, memory_map=True)
        filesystem, path = files.remote_filesystem(self._name.partition(":")[0], self.path)
        return pq.ParquetFile(filesystem.open_input_file(path), metadata=self.metadata)


class RecentGroups:
    """Cache of the last `budget` bytes of `load(group)`, called once for concurrent requests."""

    def __init__(self, load: Callable[[int], pa.ChunkedArray], budget: int) -> None:
        self._load, self._budget = load, budget
        self._groups: dict[int, Future] = {}  # the most recently used last
        self._lock = threading.Lock()

    def __getitem__(self, group: int) -> pa.ChunkedArray:
        with self._lock:
            future = self._groups.pop(group, None)
            mine = future is None
            future = future or Future()
            self._groups[group] = future
        if mine:
            try:
                future.set_result(self._load(group))
            except BaseException as e:
                future.set_exception(e)
            self._settle(group, future)
        return future.result()

    def _settle(self, group: int, future: Future) -> None:
        """Drop failures, and groups beyond the budget, the least recently used first."""
        with self._lock:
            if future.exception() is not None:
                self._groups.pop(group, None)
            done = {g: f.result().nbytes for g, f in self._groups.items() if f.done()}
            size = sum(done.values())
            for old, bytes_ in done.items():
                if size <= self._budget or old == group:
                    break
                size -= bytes_
                del self._groups[old]


def load(path: str, split: str) -> ParquetSource:
    """Open the rows of the files that `path` (a file, a folder, a glob, a URL) names.

    Images come from the first of `IMAGE_COLUMNS`, or the first that the Hugging Face metadata
    declare as an image, as bytes, as the path of a file in the folder of the table, or as a struct
    with fields `bytes` or `path`; labels from the first of `LABEL_COLUMNS`, numbers (names from the
    metadata, if any) or strings; captions from the first of `CAPTION_COLUMNS` with strings or lists
    of strings; names from the first of `NAME_COLUMNS` with strings. `#image=...` names other
    columns.

    In a folder whose files name parts, `train-*` and `validation-*`, these are the training files,
    or for evaluation the held-out ones: see `splits.choose_files`.

    Raises:
      UserError: no such file, a corrupt one, no column of images, no row, invalid labels, or a
        column that is missing or has the wrong type.
    """
    pattern, columns, whole = _parse(path)
    name = f"parquet:{path}"
    paths, part = files.matching("parquet", pattern, "*.parquet"), ""
    left_out: dict[str, int] = {}
    if not whole and not files.is_remote(pattern) and Path(pattern).expanduser().is_dir():
        paths, left_out, part = choose_files(paths, split)
    name += f" ({part} files)" if part else ""
    return ParquetSource(
        name, list(_map(lambda p: ParquetTable(name, p), paths)), columns, left_out
    )


def held_out(path: str) -> ParquetSource | None:
    """Open the validation or test files of a folder that also holds training files."""
    pattern, _, whole = _parse(path)
    if whole or files.is_remote(pattern) or not Path(pattern).expanduser().is_dir():
        return None
    held = load(path, "eval")
    return held if held.name != f"parquet:{path}" else None


def _parse(path: str) -> tuple[str, dict[str, str], bool]:
    """Parse FILES#COLUMNS: files, columns by content, and true for all files (`#.`)."""
    pattern, mark, fragment = path.rpartition("#")
    if not mark or Path(path).expanduser().exists():
        return path, {}, False
    columns: dict[str, str] = {}
    whole = False
    for term in fragment.split("&"):
        key, equals, column = term.partition("=")
        if equals and key in COLUMNS:
            columns[key] = column
        elif term == ".":
            whole = True
        else:
            raise UserError(f"parquet:{path}: unknown {term!r} after '#'; {suggest(key, COLUMNS)}")
    return pattern, columns, whole


def _read_file(path: str, table: str) -> bytes:
    """Read the image file that a row names by a path in the folder of the table, or a file:// URL.

    Raises:
      DecodeError: a path outside of that folder, or a URL of another machine.
    """
    local = unquote(path.removeprefix("file://")) if path.startswith("file://") else path
    if files.is_remote(local) or files.is_remote(table):
        raise DecodeError(
            f"{path[:80]!r}: images are not fetched from URLs; expected their bytes, or paths of "
            "files beside a table on this machine"
        )
    inside = os.path.join(os.path.dirname(os.path.abspath(table)), "")  # noqa: PTH100, PTH118, PTH120
    whole = os.path.normpath(os.path.join(inside, local))  # noqa: PTH118
    if not whole.startswith(inside):
        raise DecodeError(
            f"{path[:80]!r} leads out of {inside}, the folder of the table; move the table to a "
            "folder that holds all images"
        )
    with open(whole, "rb") as file:  # noqa: PTH123
        check_size(os.fstat(file.fileno()).st_size)
        return file.read()


def _map(fn: Callable, items: list) -> Iterable:
    with ThreadPoolExecutor(min(_OPENERS, len(items))) as pool:
        return list(pool.map(fn, items))


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
