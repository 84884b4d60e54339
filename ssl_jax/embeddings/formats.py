"""Files of features: .npz, .parquet and .array_record, written and read in parts.

Each file holds, one row per example: `features` float32, `index` (the example's position in its
data set), `name` (its path or name) and, if the data have labels, `label`; and `about`, a JSON
object that describes how they were made. The bytes of a file depend on nothing else.
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

CHUNK = 65_536  # names that are in memory at once
Metadata = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """The content of a file that is to be written.

    Attributes:
      source: the data set, for names and labels.
      indices: index (n,) of the examples of each part.
      features: returns an iterator over the features (n, ...) float32 of each part.
      shape: shape of a row.
      metadata: how the features were made.
    """

    source: Source
    indices: Sequence[np.ndarray]
    features: Callable[[], Iterator[np.ndarray]]
    shape: tuple[int, ...]
    metadata: Metadata

    @property
    def rows(self) -> int:
        return sum(map(len, self.indices))

    def names(self, index: np.ndarray) -> list[str]:
        return names_of(self.source, index)

    def labels(self, index: np.ndarray) -> np.ndarray | None:
        return None if self.source.labels is None else self.source.labels[index]


class Format(NamedTuple):
    """Functions that write and read one kind of file.

    Attributes:
      write: writes a `Table` to a path.
      metadata: reads the JSON metadata of the file at a path; raises any error if it has none.
      features: iterates over the features in it, some rows (n, ...) at a time.
    """

    write: Callable[[Path, Table], None]
    metadata: Callable[[Path], Any]
    features: Callable[[Path], Iterator[np.ndarray]]


def of(path: Path) -> Format:
    """Return the format that the suffix of the file's name stands for.

    Raises:
      UserError: an unknown suffix.
    """
    if path.suffix not in FORMATS:
        names = ", ".join(f"FILE{suffix}" for suffix in FORMATS)
        raise UserError(f"--output={path}: expected one of {names}")
    return FORMATS[path.suffix]


def read_metadata(path: Path) -> dict[str, Any] | None:
    """Read the metadata of the file at `path`; None if it is not a file of features."""
    try:
        metadata = json.loads(of(path).metadata(path))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, RecordError):
        return None
    return metadata if isinstance(metadata, dict) else None


def write_npz(path: Path, arrays: Mapping[str, "Pieces"]) -> None:
    """Write arrays that come in pieces, uncompressed. `np.load` reads the file. The arrays may be
    larger than memory.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as file:
        for name, array in arrays.items():
            # ZipInfo's default time stamp is constant: 1980.
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
    """An array in pieces: its dtype, its shape, and consecutive pieces of its rows."""

    dtype: Any
    shape: tuple[int, ...]
    pieces: Iterable[np.ndarray]


def mapped(path: Path, name: str) -> np.ndarray:
    """Memory-map an array of an uncompressed .npz file."""
    with zipfile.ZipFile(path) as file, file.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        read = {(1, 0): np.lib.format.read_array_header_1_0}[version]
        shape, _, dtype = read(member)
        header, info = member.tell(), file.getinfo(f"{name}.npy")
    with path.open("rb") as raw:
        raw.seek(info.header_offset + 26)  # lengths of the name and of the extra field
        lengths = np.frombuffer(raw.read(4), "<u2")
    start = info.header_offset + 30 + int(lengths.sum()) + header
    return np.memmap(path, dtype, "r", start, shape) if np.prod(shape) else np.zeros(shape, dtype)


def _write_npz(path: Path, table: Table) -> None:
    def chunks(function: Callable[[np.ndarray], Any]) -> Iterator[Any]:
        for index in table.indices:
            for first in range(0, len(index), CHUNK):
                yield function(index[first : first + CHUNK])

    longest = max((max(map(len, names), default=1) for names in chunks(table.names)), default=1)
    text, count = f"<U{max(longest, 1)}", table.rows
    arrays = {
        "features": Pieces("<f4", (count, *table.shape), table.features()),
        "index": Pieces("<i8", (count,), chunks(lambda index: index)),
        "name": Pieces(text, (count,), chunks(lambda index: np.array(table.names(index), text))),
    }
    if table.source.labels is not None:
        arrays["label"] = Pieces("<i4", (count,), chunks(table.labels))
    metadata = np.array(json.dumps(table.metadata))
    arrays["about"] = Pieces(metadata.dtype, (), [metadata])
    write_npz(path, arrays)


def _npz_metadata(path: Path) -> Any:
    with np.load(path, allow_pickle=False) as content:
        return str(content["about"])


def _npz_features(path: Path) -> Iterator[np.ndarray]:
    yield mapped(path, "features")


def _write_parquet(path: Path, table: Table) -> None:
    size = int(np.prod(table.shape))
    fields = [("index", pa.int64()), ("name", pa.string())]
    fields += [("label", pa.int32())] if table.source.labels is not None else []
    fields += [("features", pa.list_(pa.float32(), size))]
    schema = pa.schema(fields, {"about": json.dumps(table.metadata)})
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


def _parquet_metadata(path: Path) -> Any:
    return (pq.read_schema(path).metadata or {})[b"about"]


def _parquet_features(path: Path) -> Iterator[np.ndarray]:
    shape = json.loads(_parquet_metadata(path))["shape"]
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            column = file.read_row_group(group, columns=["features"])["features"]
            for chunk in column.chunks:
                yield chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, *shape)


def _write_array_record(path: Path, table: Table) -> None:
    """Write `tf.train.Example` messages; feature maps (h, w, D) are flattened in C order. The
    metadata go to PATH.json beside the file.
    """
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
    except RuntimeError as e:  # raised by the writer if the disk is full
        raise OSError(str(e)) from None
    path.with_name(f"{path.name}.json").write_text(json.dumps(table.metadata, indent=1) + "\n")


def _array_record_metadata(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(path)
    return path.with_name(f"{path.name}.json").read_text()


def _array_record_features(path: Path) -> Iterator[np.ndarray]:
    from array_record.python.array_record_module import ArrayRecordReader

    shape = json.loads(_array_record_metadata(path))["shape"]
    reader = ArrayRecordReader(str(path))
    try:
        for first in range(0, reader.num_records(), 256):
            records = reader.read(first, min(first + 256, reader.num_records()))
            rows = [decode_features(record)["features"] for record in records]
            yield np.array(rows, np.float32).reshape(-1, *shape)
    finally:
        reader.close()


def names_of(source: Source, index: np.ndarray) -> list[str]:
    """Name examples as the data set lists them, or else describe where they are stored."""
    names, describe = source.names, source.describe
    return [readable(describe(i) if names is None else names[i]) for i in index.tolist()]


def readable(name: str) -> str:
    """Escape the bytes of a name that are not UTF-8, so that every reader accepts it as text."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


FORMATS = {
    ".npz": Format(_write_npz, _npz_metadata, _npz_features),
    ".parquet": Format(_write_parquet, _parquet_metadata, _parquet_features),
    ".array_record": Format(_write_array_record, _array_record_metadata, _array_record_features),
}
