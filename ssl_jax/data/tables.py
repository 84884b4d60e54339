"""Data sets whose examples are the rows of tables, or the images of lists in rows: the layout of
the Hugging Face hub, in Parquet or Arrow files.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
from absl import logging

from ssl_jax.core.errors import UserError
from ssl_jax.data import files
from ssl_jax.data.columns import (
    CAPTION_COLUMNS,
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
from ssl_jax.data.text import without_halves

LONG_LOOK = 16 << 30  # bytes; fingerprints of larger sets omit the captions
CACHE_BYTES = 2 << 30
MAX_GROUP_BYTES = 8 << 30  # largest row group
_OPENERS = 16  # files whose footers are read in parallel


class TableFile(Protocol):
    """One file.

    Attributes:
      schema: its columns.
      rows: number of rows of each group, the smallest part that can be read.
      sizes: bytes that decoding each group takes; 0 for those that are not decoded.
    """

    path: str
    schema: pa.Schema
    rows: Sequence[int]
    sizes: Sequence[int]

    def read_group(self, number: int, column: str) -> pa.ChunkedArray:
        """Read a column of a group.

        Raises:
          pa.ArrowException: it is corrupt.
        """
        ...

    def read_column(self, column: str) -> list:
        """Read a column, as Python values. Raises as `read_group`."""
        ...

    def lengths(self, column: str) -> np.ndarray:
        """Return the length of the list in each row of a column, 0 for none. Raises likewise."""
        ...

    def footer(self) -> bytes:
        """Return what describes the content, for fingerprints."""
        ...


class TableSource(Source):
    """Rows of the files `tables`, in order; of a column of lists, every image of every row, each
    with the label, captions and name of its row.

    Args:
      name: name that the user gave.
      columns: column that the user names for each of `COLUMNS`; "" is none.
    """

    def __init__(
        self,
        name: str,
        tables: Sequence[TableFile],
        columns: Mapping[str, str] | None = None,
        left_out: Mapping[str, int] | None = None,
    ) -> None:
        self.name, self.left_out = name, left_out or {}
        self._tables, columns = tables, columns or {}
        schema = tables[0].schema
        features = features_of(schema)
        self._image = image_column(name, schema, features, columns.get("image"))
        for table in tables[1:]:
            if self._image not in table.schema.names:
                raise UserError(f"{name}: expected a column {self._image} in {table.path}")
        self._groups = [(t, g) for t in tables for g, rows in enumerate(t.rows) if rows]
        rows = [t.rows[g] for t, g in self._groups]
        if not rows:
            raise UserError(f"{name}: no row in it")
        self._first = np.concatenate([[0], np.cumsum(rows)])
        self._lists = self._spread() if is_list(schema.field(self._image).type) else None
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
        self._check_paths(schema.field(self._image).type)
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
        return int(self._first[-1]) if self._lists is None else len(self._lists.rows)

    def read(self, index: int) -> bytes:
        group, row, position = self._place(index)
        column = self._cache[group]
        if row >= len(column):
            raise DecodeError("the row group has fewer rows than its metadata say")
        value: Any = column[row].as_py() if position is None else column[row][position].as_py()
        if isinstance(value, dict):
            value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
        if isinstance(value, str) and value:
            return _read_file(value, self._groups[group][0].path)
        if not value and value != b"":
            raise DecodeError("the row holds no image bytes")
        return value

    def describe(self, index: int) -> str:
        group, row, position = self._place(index)
        table, number = self._groups[group]
        image = "" if position is None else f"image {position} of "
        return f"{image}row {row} of row group {number} of {table.path}"

    def layout(self) -> str:
        """Digest the file names, what describes their content (of Parquet, the positions and value
        ranges of all columns), and the labels.
        """
        digest = hashlib.blake2b(digest_size=16)
        for table in self._tables:
            digest.update(f"{Path(table.path).name}\n".encode())
            digest.update(table.footer())
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

    def _place(self, index: int) -> tuple[int, int, int | None]:
        """Return the group of an example, the row in it, and the position in the row's list."""
        position = None
        if self._lists is not None:
            position, index = int(self._lists.positions[index]), int(self._lists.rows[index])
        group = int(np.searchsorted(self._first, index, "right")) - 1
        return group, int(index - self._first[group]), position

    def _spread(self) -> "Lists":
        """Return the row of each image, and count the rows without any."""
        lengths = np.concatenate(
            list(parallel(lambda t: self._read(t, t.lengths, self._image), self._tables))
        )
        if len(lengths) != self._first[-1] or not lengths.any():
            raise UserError(f"{self.name}: no image in the lists of column {self._image}")
        rows = np.repeat(np.arange(len(lengths)), lengths)
        if empty := int((lengths == 0).sum()):
            why = f"rows without an image in column {self._image}"
            self.left_out = {**self.left_out, why: empty}
        starts = np.cumsum(lengths) - lengths
        return Lists(rows, np.arange(len(rows)) - starts[rows])

    def _read_group(self, group: int) -> pa.ChunkedArray:
        table, number = self._groups[group]
        try:
            return table.read_group(number, self._image)
        except pa.ArrowException as e:
            raise DecodeError(f"{_line(e)} in {table.path}") from None

    def _read_column(self, column: str) -> list:
        """Return the value of a column for each example."""
        parts = parallel(lambda t: self._read(t, t.read_column, column), self._tables)
        values = [value for part in parts for value in part]
        if len(values) != self._first[-1]:
            raise UserError(
                f"{self.name}: column {column} has {len(values)} rows for {self._first[-1]}"
            )
        return values if self._lists is None else [values[row] for row in self._lists.rows]

    def _read(self, table: TableFile, read: Callable[[str], Any], column: str) -> Any:
        try:
            return read(column)
        except (pa.ArrowException, OSError, KeyError) as e:
            raise UserError(f"{self.name}: column {column} of {table.path}: {_line(e)}") from None

    def _class_names(self, column: str, features: dict) -> tuple[str, ...]:
        """Return the class names in the metadata of a column of labels, or of lists of them."""
        feature = features.get(column)
        feature = feature.get("feature", feature) if isinstance(feature, dict) else feature
        feature = feature[0] if isinstance(feature, list) and feature else feature
        names = feature.get("names") if isinstance(feature, dict) else None
        valid = isinstance(names, list) and all(isinstance(n, str) for n in names)
        return tuple(map(without_halves, names or ())) if valid else ()

    def _check_paths(self, kind: pa.DataType) -> None:
        """Raise `UserError` if images are separate files and the first cannot be read."""
        kind = kind.value_type if is_list(kind) else kind
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
        sizes = [t.sizes[g] for t, g in self._groups]
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


class Lists(NamedTuple):
    """Row and position in its list of each image."""

    rows: np.ndarray
    positions: np.ndarray


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


def parallel(fn: Callable, items: Sequence) -> Iterable:
    """Apply a function to each item, in threads; return the results in order."""
    with ThreadPoolExecutor(min(_OPENERS, len(items))) as pool:
        return list(pool.map(fn, items))


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
