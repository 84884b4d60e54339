"""Files of features: .npz, .parquet and .array_record, written and read a part at a time.

All hold, a row an example: `features` float32, `index` (the example's place in its data set),
`name` (its path or name) and, where the data have labels, `label`; and `about`, a JSON object that
says what made them. The bytes of a file depend on nothing else.
"""

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ssl_jax.core.errors import UserError
from ssl_jax.data.records import RecordError, decode_features, encode_features
from ssl_jax.data.sources import Source

SOME = 65_536  # names at a time
About = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """What is to be written.

    Attributes:
      source: the data set, for names and labels.
      indices: index (n,) of the examples of each part.
      features: calls up the features (n, ...) float32 of each part, one after another.
      shape: of a row.
      about: what made them.
    """

    source: Source
    indices: Sequence[np.ndarray]
    features: Callable[[], Iterator[np.ndarray]]
    shape: tuple[int, ...]
    about: About

    @property
    def rows(self) -> int:
        return sum(map(len, self.indices))

    def names(self, index: np.ndarray) -> list[str]:
        """As a list of examples calls them, or else where they lie."""
        known, describe = self.source.names, self.source.describe
        every = [known[i] if known is not None else describe(i) for i in index.tolist()]
        return [_readable(name) for name in every]

    def labels(self, index: np.ndarray) -> np.ndarray | None:
        return None if self.source.labels is None else self.source.labels[index]


class Format(NamedTuple):
    """How one kind of file is written and read.

    Attributes:
      write: writes a `Table` to a path.
      about: what is said in the file at a path; any error where it is none.
      features: the features in it, some rows (n, ...) at a time.
    """

    write: Callable[[Path, Table], None]
    about: Callable[[Path], Any]
    features: Callable[[Path], Iterator[np.ndarray]]


def of(path: Path) -> Format:
    """By the end of the file's name.

    Raises:
      UserError: another end.
    """
    if path.suffix not in FORMATS:
        known = ", ".join(f"FILE{end}" for end in FORMATS)
        raise UserError(f"--output={path}: expected one of {known}")
    return FORMATS[path.suffix]


def read_about(path: Path) -> dict[str, Any] | None:
    """What the file at `path` says of itself; None where it is not one of ours."""
    try:
        found = json.loads(of(path).about(path))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, RecordError):
        return None
    return found if isinstance(found, dict) else None


def write_npz(path: Path, arrays: Mapping[str, "Pieces"]) -> None:
    """Write arrays that come in pieces; `np.load` reads them, and they may be larger than memory.

    Nothing is compressed.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as file:
        for name, array in arrays.items():
            # ZipInfo's own time: that of 1980.
            with file.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                header = {
                    "descr": np.lib.format.dtype_to_descr(np.dtype(array.dtype)),
                    "fortran_order": False,
                    "shape": array.shape,
                }
                np.lib.format.write_array_header_1_0(member, header)
                for piece in array.pieces:
                    member.write(np.ascontiguousarray(piece, array.dtype).tobytes())


class Pieces(NamedTuple):
    """An array: its dtype and shape, and its rows, some at a time."""

    dtype: Any
    shape: tuple[int, ...]
    pieces: Iterable[np.ndarray]


def mapped(path: Path, name: str) -> np.ndarray:
    """An array of an uncompressed .npz file, in the file, without reading it."""
    with zipfile.ZipFile(path) as file, file.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        read = {(1, 0): np.lib.format.read_array_header_1_0}[version]
        shape, _, dtype = read(member)
        header, info = member.tell(), file.getinfo(f"{name}.npy")
    with path.open("rb") as raw:
        raw.seek(info.header_offset + 26)  # lengths of the name and of what follows it
        lengths = np.frombuffer(raw.read(4), "<u2")
    start = info.header_offset + 30 + int(lengths.sum()) + header
    return np.memmap(path, dtype, "r", start, shape) if np.prod(shape) else np.zeros(shape, dtype)


def _write_npz(path: Path, table: Table) -> None:
    def some(of: Callable[[np.ndarray], Any]) -> Iterator[Any]:
        for index in table.indices:
            for first in range(0, len(index), SOME):
                yield of(index[first : first + SOME])

    longest = max((max(map(len, names), default=1) for names in some(table.names)), default=1)
    text, count = f"<U{max(longest, 1)}", table.rows
    arrays = {
        "features": Pieces("<f4", (count, *table.shape), table.features()),
        "index": Pieces("<i8", (count,), some(lambda index: index)),
        "name": Pieces(text, (count,), some(lambda index: np.array(table.names(index), text))),
    }
    if table.source.labels is not None:
        arrays["label"] = Pieces("<i4", (count,), some(table.labels))
    about = np.array(json.dumps(table.about))
    arrays["about"] = Pieces(about.dtype, (), [about])
    write_npz(path, arrays)


def _npz_about(path: Path) -> Any:
    with np.load(path, allow_pickle=False) as content:
        return str(content["about"])


def _npz_features(path: Path) -> Iterator[np.ndarray]:
    yield mapped(path, "features")


def _write_parquet(path: Path, table: Table) -> None:
    size = int(np.prod(table.shape))
    fields = [("index", pa.int64()), ("name", pa.string())]
    fields += [("label", pa.int32())] if table.source.labels is not None else []
    fields += [("features", pa.list_(pa.float32(), size))]
    schema = pa.schema(fields, {"about": json.dumps(table.about)})
    plain = {"compression": "none", "use_dictionary": False}
    with pq.ParquetWriter(path, schema, **plain) as writer:
        for index, features in zip(table.indices, table.features(), strict=True):
            values = pa.array(np.ascontiguousarray(features, np.float32).reshape(-1))
            columns = [pa.array(index, pa.int64()), pa.array(table.names(index), pa.string())]
            if table.source.labels is not None:
                columns.append(pa.array(table.labels(index), pa.int32()))
            columns.append(pa.FixedSizeListArray.from_arrays(values, size))
            rows = pa.Table.from_arrays(columns, schema=schema)
            writer.write_table(rows, row_group_size=max(len(index), 1))


def _parquet_about(path: Path) -> Any:
    return (pq.read_schema(path).metadata or {})[b"about"]


def _parquet_features(path: Path) -> Iterator[np.ndarray]:
    shape = json.loads(_parquet_about(path))["shape"]
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            column = file.read_row_group(group, columns=["features"])["features"]
            for chunk in column.chunks:
                yield chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, *shape)


def _write_array_record(path: Path, table: Table) -> None:
    """`tf.train.Example` messages; maps (h, w, D) row by row. `about` lies beside, in PATH.json."""
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    try:
        for index, features in zip(table.indices, table.features(), strict=True):
            names, labels = table.names(index), table.labels(index)
            for row, values in enumerate(features):
                record: dict[str, Any] = {
                    "features": values.reshape(-1),
                    "index": [int(index[row])],
                    "name": [names[row].encode()],
                }
                if labels is not None:
                    record["label"] = [int(labels[row])]
                writer.write(encode_features(record))
        writer.close()
    except RuntimeError as e:  # what the writer says of a full disk
        raise OSError(str(e)) from None
    path.with_name(f"{path.name}.json").write_text(json.dumps(table.about, indent=1) + "\n")


def _array_record_about(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(path)
    return path.with_name(f"{path.name}.json").read_text()


def _array_record_features(path: Path) -> Iterator[np.ndarray]:
    from array_record.python.array_record_module import ArrayRecordReader

    shape = json.loads(_array_record_about(path))["shape"]
    reader = ArrayRecordReader(str(path))
    try:
        for first in range(0, reader.num_records(), 256):
            some = reader.read(first, min(first + 256, reader.num_records()))
            rows = [decode_features(record)["features"] for record in some]
            yield np.array(rows, np.float32).reshape(-1, *shape)
    finally:
        reader.close()


def _readable(name: str) -> str:
    """What every reader takes as text: bytes that are no UTF-8 are spelt out."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


FORMATS = {
    ".npz": Format(_write_npz, _npz_about, _npz_features),
    ".parquet": Format(_write_parquet, _parquet_about, _parquet_features),
    ".array_record": Format(_write_array_record, _array_record_about, _array_record_features),
}
