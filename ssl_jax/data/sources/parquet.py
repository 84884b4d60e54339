"""`parquet:GLOB`: tables of encoded images, as the Hugging Face hub stores them.

A Parquet file cannot give one row: a row group is decoded whole. The row groups last used are kept,
`CACHE_BYTES` of them, so that a set that fits is decoded once; for a larger one `ssl-jax prepare`
makes files that can be read in any order.
"""

import hashlib
import io
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from absl import logging

from ssl_jax.core.errors import UserError
from ssl_jax.core.plain import from_json
from ssl_jax.data import files
from ssl_jax.data.decode import DecodeError
from ssl_jax.data.labels import number_labels
from ssl_jax.data.sources.base import Source

IMAGE_COLUMNS = ("image", "img", "images", "jpg", "png")
LABEL_COLUMNS = ("label", "fine_label", "labels", "class", "cls")
CAPTION_COLUMNS = ("captions", "caption", "text", "txt")
NAME_COLUMNS = ("file_name", "filename", "path")
CACHE_BYTES = 2 << 30
MAX_GROUP_BYTES = 8 << 30  # of a row group
_OPENERS = 16  # files whose ends are read side by side


class ParquetSource(Source):
    """Rows of the files `tables`, in order."""

    def __init__(self, name: str, tables: list["Table"]) -> None:
        self.name = name
        self._tables = tables
        schema = tables[0].metadata.schema.to_arrow_schema()
        features = _features(schema)
        self._image = _image_column(name, schema, features)
        for table in tables[1:]:
            other = table.metadata.schema.to_arrow_schema()
            if self._image not in other.names:
                raise UserError(f"{name}: {table.path} has no column {self._image}")
        groups = [(t, g) for t in tables for g in range(t.metadata.num_row_groups)]
        groups = [(t, g) for t, g in groups if t.metadata.row_group(g).num_rows]
        rows = [t.metadata.row_group(g).num_rows for t, g in groups]
        if not rows:
            raise UserError(f"{name}: no row in it")
        self._groups = groups
        self._first = np.concatenate([[0], np.cumsum(rows)])
        self._cache = RecentGroups(self._read_group, CACHE_BYTES)
        self._captions = _column(schema, CAPTION_COLUMNS, _is_text)
        self._name = _column(schema, NAME_COLUMNS, _is_string)
        self.labels, self.class_names = self._read_labels(schema, features)
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
            raise DecodeError("the row group holds fewer rows than the file says")
        data = column[row].as_py()
        if data is None:
            raise DecodeError("the row holds no image bytes")
        return data

    def describe(self, index: int) -> str:
        group, row = self._place(index)
        table, number = self._groups[group]
        return f"row {row} of row group {number} of {table.path}"

    def fingerprint(self) -> str:
        """Digest of the file names, of their footers (where all columns lie, the range of their
        values), and of the labels.
        """
        digest = hashlib.blake2b(digest_size=16)
        for table in self._tables:
            digest.update(f"{Path(table.path).name}\n".encode())
            table.metadata.write_metadata_file(footer := io.BytesIO())
            digest.update(footer.getbuffer())
        if self.labels is not None:
            digest.update(self.labels.tobytes())
        return digest.hexdigest()

    def _place(self, index: int) -> tuple[int, int]:
        group = int(np.searchsorted(self._first, index, "right")) - 1
        return group, int(index - self._first[group])

    def _read_group(self, group: int) -> pa.ChunkedArray:
        table, number = self._groups[group]
        try:
            found = table.open().read_row_group(number, columns=[self._image], use_threads=False)
        except pa.ArrowException as e:
            raise DecodeError(f"{_line(e)} in {table.path}") from None
        column = found.column(0)
        return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column

    def _read_column(self, column: str) -> list:
        def read(table: Table) -> list:
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

    def _read_labels(
        self, schema: pa.Schema, features: dict
    ) -> tuple[np.ndarray | None, tuple[str, ...]]:
        column = _column(schema, LABEL_COLUMNS, _is_label)
        if column is None:
            return None, ()
        feature = features.get(column)
        names = feature.get("names") if isinstance(feature, dict) else None
        named = isinstance(names, list) and all(isinstance(n, str) for n in names)
        classes = tuple(names or ()) if named else ()
        return number_labels(self._read_column(column), self.name, classes)

    def _check_size(self) -> None:
        """Raises `UserError` for a row group that is too large, warns of slow sets."""
        # Of all columns: to ask one of a damaged footer ends the process (pyarrow 26.0.1).
        sizes = [t.metadata.row_group(g).total_byte_size for t, g in self._groups]
        if max(sizes) > MAX_GROUP_BYTES:
            table, number = self._groups[int(np.argmax(sizes))]
            raise UserError(
                f"{self.name}: row group {number} of {table.path} holds {max(sizes) >> 30} GiB and "
                f"is read whole; write groups of at most {MAX_GROUP_BYTES >> 30} GiB"
            )
        size = sum(sizes)
        if size > CACHE_BYTES:
            logging.warning(
                "%s: %.1f GiB in row groups that are decoded whole; %.1f GiB are kept, "
                "so random order is slow; `ssl-jax prepare` makes files for it",
                self.name,
                size / 2**30,
                CACHE_BYTES / 2**30,
            )


class Table:
    """One file: its footer, read once."""

    def __init__(self, name: str, path: str) -> None:
        self.path, self._name = path, name
        try:
            self.metadata: Any = None
            self.metadata = self.open().metadata
        except (pa.ArrowException, OSError) as e:
            raise UserError(f"{name}: {path} is no whole Parquet file ({_line(e)})") from None

    def open(self) -> pq.ParquetFile:
        """A reader of one's own: one is not safe to share between threads."""
        if not files.is_remote(self.path):
            return pq.ParquetFile(self.path, metadata=self.metadata, memory_map=True)
        filesystem, path = files.remote_filesystem(self._name.partition(":")[0], self.path)
        return pq.ParquetFile(filesystem.open_input_file(path), metadata=self.metadata)


class RecentGroups:
    """`load(group)`, called once for threads that ask together, the last `budget` bytes kept."""

    def __init__(self, load: Callable[[int], pa.ChunkedArray], budget: int) -> None:
        self._load, self._budget = load, budget
        self._kept: dict[int, Future] = {}  # the last used last
        self._lock = threading.Lock()

    def __getitem__(self, group: int) -> pa.ChunkedArray:
        with self._lock:
            future = self._kept.pop(group, None)
            mine = future is None
            future = future or Future()
            self._kept[group] = future
        if mine:
            try:
                future.set_result(self._load(group))
            except BaseException as e:
                future.set_exception(e)
            self._settle(group, future)
        return future.result()

    def _settle(self, group: int, future: Future) -> None:
        """Forget a failure, and what is over the budget, the longest unused first."""
        with self._lock:
            if future.exception() is not None:
                self._kept.pop(group, None)
            done = {g: f.result().nbytes for g, f in self._kept.items() if f.done()}
            size = sum(done.values())
            for old, bytes_ in done.items():
                if size <= self._budget or old == group:
                    break
                size -= bytes_
                del self._kept[old]


def load(path: str, split: str) -> ParquetSource:
    """The rows of the files that `path` (a file, a folder, a glob, a URL) names.

    The image is in the first of `IMAGE_COLUMNS`, or in the first that the Hugging Face metadata
    call an image, as bytes or as a struct with a field `bytes`; the label in the first of
    `LABEL_COLUMNS` that holds integers (names from the metadata, if any) or strings; captions in
    the first of `CAPTION_COLUMNS` that holds strings or lists of them; the name in the first of
    `NAME_COLUMNS` that holds strings.

    Raises:
      UserError: no such file, a damaged one, no column of images, no row, labels out of range.
    """
    name = f"parquet:{path}"
    found = files.matching("parquet", path, "*.parquet")
    return ParquetSource(name, list(_map(lambda p: Table(name, p), found)))


def _features(schema: pa.Schema) -> dict:
    """The columns' types as the Hugging Face `datasets` package notes them, {} without."""
    try:
        info = from_json((schema.metadata or {}).get(b"huggingface", b"{}"))
        return dict(info["info"]["features"])
    except (ValueError, KeyError, TypeError):
        return {}


def _image_column(name: str, schema: pa.Schema, features: dict) -> str:
    noted = [k for k, f in features.items() if isinstance(f, dict) and f.get("_type") == "Image"]
    candidates = [c for c in (*IMAGE_COLUMNS, *noted) if c in schema.names]
    if not candidates:
        raise UserError(
            f"{name}: no column {' or '.join(IMAGE_COLUMNS)}; it has {', '.join(schema.names)}"
        )
    kind = schema.field(candidates[0]).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise UserError(
            f"{name}: column {candidates[0]} is {kind}; expected the bytes of image files"
        )
    return candidates[0]


def _column(
    schema: pa.Schema, names: Iterable[str], fits: Callable[[pa.DataType], bool]
) -> str | None:
    return next((n for n in names if n in schema.names and fits(schema.field(n).type)), None)


def _is_label(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or _is_string(kind)


def _is_text(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return _is_string(kind.value_type if is_list else kind)


def _is_string(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _map(fn: Callable, items: list) -> Iterable:
    with ThreadPoolExecutor(min(_OPENERS, len(items))) as pool:
        return list(pool.map(fn, items))


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
