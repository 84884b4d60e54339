"""`array_record:GLOB`: sharded records of images, as `ssl-jax prepare` and TFDS write them."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from ssl_jax.core.errors import UserError
from ssl_jax.core.plain import from_json
from ssl_jax.data import cache, files
from ssl_jax.data.decode import DecodeError
from ssl_jax.data.labels import number_labels
from ssl_jax.data.records import IMAGE_KEYS, Record, RecordError, decode
from ssl_jax.data.sources.base import Source
from ssl_jax.data.splits import choose_files

MANIFEST = "manifest.json"
_SCAN = 256  # records read at once
LONG_LOOK = 16 << 30  # bytes; without a manifest, fingerprints of larger sets omit the labels


class RecordSource(Source):
    """Source of records (`data.records`) with random access.

    The first record decides if there are labels, captions and names. They are read on first use, in
    one pass over the data, and cached.

    Args:
      name: name that the user gave.
      records: object with `__len__`, and `__getitem__` and `__getitems__` that return bytes.
      shards: path, size and modification time of each file.
      part: name of the part, if not all records of the files.
      class_names: names of the classes, if known.
      image_keys: keys under which a record may hold its image.
      digests: digest of the content of each file, if known.

    Raises:
      UserError: no record, or a first record without an image.
    """

    def __init__(
        self,
        name: str,
        records: Any,
        shards: Sequence[tuple[str, int, int]],
        part: str = "",
        class_names: Sequence[str] = (),
        image_keys: Sequence[str] = IMAGE_KEYS,
        digests: Sequence[str] = (),
    ) -> None:
        self.name, self._shards, self._digests = name, shards, tuple(digests)
        self._records, self._names, self._keys = records, tuple(class_names), image_keys
        text = f"{part} {len(records)} {[(Path(path).name, size) for path, size, _ in shards]}"
        self._digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        self._cache_key = f"{part} {shards}"
        if not len(records):
            raise UserError(f"{name}: no record in it")
        try:
            self._first = self._decode(records[0])
        except (DecodeError, OSError, RuntimeError, ValueError) as e:
            raise UserError(f"{name}: cannot be read ({e})") from None
        if odd := self._first.odd_label:
            self.left_out = {f"labels: the first is {odd}, not one whole number": len(records)}

    @cached_property
    def labels(self) -> np.ndarray | None:  # type: ignore[override]
        return self._labels_and_names[0]

    @cached_property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        use_names = self._names and self._first.label is not None
        return self._names if use_names else self._labels_and_names[1]

    @cached_property
    def captions(self) -> Sequence[Sequence[str]] | None:  # type: ignore[override]
        return json.loads(self._scan["captions"].tobytes()) if self._first.captions else None

    @cached_property
    def names(self) -> Sequence[str] | None:  # type: ignore[override]
        return cache.unpack(self._scan["names"]) if self._first.name else None

    def __len__(self) -> int:
        return len(self._records)

    def read(self, index: int) -> bytes:
        try:
            data = self._records[index]
        except (RuntimeError, ValueError) as e:  # raised by the reader for a corrupt block
            raise DecodeError(str(e)) from None
        return self._decode(data).image

    def layout(self) -> str:
        """Digest the names and sizes of the files."""
        return self._digest

    def content(self) -> Iterator[bytes]:
        """Yield class names, the digests of a manifest, or else labels and captions, for which all
        records are read (in sets up to `LONG_LOOK`), and a sample of the bytes.
        """
        paths, sizes = [path for path, *_ in self._shards], [size for _, size, _ in self._shards]
        yield repr(self._names).encode("utf-8", "surrogatepass")
        if self._digests:
            yield repr(self._digests).encode()
        elif sum(sizes) <= LONG_LOOK:
            yield from super().content()
        yield files.sample(paths, sizes, "array_record")

    def _decode(self, data: bytes) -> Record:
        try:
            return decode(data, self._keys)
        except RecordError as e:
            raise DecodeError(str(e)) from None

    @cached_property
    def _labels_and_names(self) -> tuple[np.ndarray | None, tuple[str, ...]]:
        if self._first.label is None:
            return None, ()
        return number_labels(self._scan["labels"], self.name, self._names)

    @cached_property
    def _scan(self) -> dict[str, np.ndarray]:
        """Read the label (-1: none), captions (as JSON) and name of every record; corrupt records
        have none.
        """
        cached = cache.load("records", self._cache_key)
        whole = cached is not None and len(cached.get("labels", ())) == len(self)
        if cached is not None and whole and ("names" in cached or not self._first.name):
            return cached
        labels = np.full(len(self), -1, np.int64)
        captions: list[tuple[str, ...]] = [()] * len(self)
        names, odd = [""] * len(self), 0
        for first in range(0, len(self), _SCAN):
            rows = range(first, min(first + _SCAN, len(self)))
            for i, data in zip(rows, self._read_rows(rows), strict=True):
                try:
                    record = self._decode(data)
                except DecodeError:
                    continue
                labels[i] = -1 if record.label is None else record.label
                odd += bool(record.odd_label)
                captions[i], names[i] = record.captions, record.name
        if odd:
            logging.warning("%s: left out %d labels that are not one whole number", self.name, odd)
        arrays = {"labels": labels}
        if self._first.captions:
            arrays["captions"] = np.frombuffer(json.dumps(captions).encode(), np.uint8)
        if self._first.name:
            arrays["names"] = cache.pack(names)
        cache.save("records", self._cache_key, **arrays)
        return arrays

    def _read_rows(self, rows: range) -> list[bytes]:
        try:
            return self._records.__getitems__(list(rows))
        except (RuntimeError, ValueError):  # a corrupt block: one by one, to save the others
            return [self._read_row(i) for i in rows]

    def _read_row(self, index: int) -> bytes:
        try:
            return self._records[index]
        except (RuntimeError, ValueError):
            return b""


def load(path: str, split: str) -> RecordSource:
    """Open the records of the shards that `path` (a file, a folder, a glob, a URL) names, in order.

    In a folder whose files name parts, `train-*` and `test-*`, these are the training files, or for
    evaluation the held-out ones: see `splits.choose_files`; `FOLDER#.` names all files.

    A `manifest.json` beside them may name the classes: {"class_names": [...]}.

    Raises:
      UserError: no such file, not an ArrayRecord file, or records without images.
    """
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    name = f"array_record:{path}"
    pattern = path.removesuffix("#.")
    shards, part = files.matching("array_record", pattern, "*.array_record*"), ""
    left_out: dict[str, int] = {}
    if pattern == path and not files.is_remote(path) and Path(path).expanduser().is_dir():
        shards, left_out, part = choose_files(shards, split)
    name += f" ({part} files)" if part else ""
    try:
        records = ArrayRecordDataSource(shards)
    except Exception as e:  # the reader raises any type
        line = str(e).strip().partition("\n")[0]
        raise UserError(f"{name}: not complete ArrayRecord files ({line})") from None
    stats = [(shard, *files.size_and_time("array_record", shard)) for shard in shards]
    manifest = _manifest(name, shards[0])
    names = _class_names(name, Path(shards[0]).parent / MANIFEST, manifest)
    source = RecordSource(
        name, records, stats, class_names=names, digests=_digests(shards, manifest)
    )
    source.left_out = {**left_out, **source.left_out}
    return source


def held_out(path: str) -> RecordSource | None:
    """Open the validation or test files of a folder that also holds training files."""
    if files.is_remote(path) or not Path(path).expanduser().is_dir():
        return None
    held = load(path, "eval")
    return held if held.name != f"array_record:{path}" else None


def _manifest(name: str, shard: str) -> Mapping[str, Any]:
    """Read the manifest beside a shard, {} if there is none."""
    file = Path(shard).parent / MANIFEST
    if files.is_remote(shard) or not file.is_file():
        return {}
    try:
        content = from_json(file.read_text())
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{name}: {file} is not a JSON object")
    return content


def _digests(shards: Sequence[str], manifest: Mapping[str, Any]) -> list[str]:
    """Return the digests of the shards if `ssl-jax prepare` wrote all of them, else []."""
    parts = manifest.get("shards")
    entries = [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    by_name = {part.get("name"): str(part.get("blake2b", "")) for part in entries}
    digests = [by_name.get(Path(shard).name, "") for shard in shards]
    return digests if all(digests) and len({Path(s).parent for s in shards}) == 1 else []


def _class_names(name: str, file: Path, manifest: Mapping[str, Any]) -> tuple[str, ...]:
    names = manifest.get("class_names", [])
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise UserError(f"{name}: class_names of {file} are not a list of strings")
    return tuple(names)
