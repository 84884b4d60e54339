"""`array_record:GLOB`: sharded records of images; what `ssl-jax prepare` writes, and TFDS."""

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
LONG_LOOK = 16 << 30  # bytes; labels of more, without a manifest, are not in a fingerprint


class RecordSource(Source):
    """Records (`data.records`) behind random access.

    Whether there are labels, captions and names is told by the first record. All of them are read
    only when they are first asked for, in one pass over the data, and cached.

    Args:
      name: what the user called it.
      records: `len`, and `__getitem__` and `__getitems__` that give bytes.
      shards: path, size and time of the last change of each file.
      part: which records of the files, if not all.
      class_names: if known.
      image_keys: names under which a record may hold its image.
      digests: of all that each file holds, if known.

    Raises:
      UserError: no record, or a first one that is no image.
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
        named = self._names and self._first.label is not None
        return self._names if named else self._labels_and_names[1]

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
        except (RuntimeError, ValueError) as e:  # what the reader says of a damaged block
            raise DecodeError(str(e)) from None
        return self._decode(data).image

    def layout(self) -> str:
        """Digest of the names and sizes of the files."""
        return self._digest

    def content(self) -> Iterator[bytes]:
        """Class names, the digests that a manifest has or else labels and captions, for which all
        records are read (of sets up to `LONG_LOOK`), and a sample of the bytes.
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
        """Label (-1: none), captions (as JSON) and name of every record; of one that is broken,
        none.
        """
        kept = cache.load("records", self._cache_key)
        whole = kept is not None and len(kept.get("labels", ())) == len(self)
        if kept is not None and whole and ("names" in kept or not self._first.name):
            return kept
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
            logging.warning("%s: %d labels are not one whole number, and left out", self.name, odd)
        found = {"labels": labels}
        if self._first.captions:
            found["captions"] = np.frombuffer(json.dumps(captions).encode(), np.uint8)
        if self._first.name:
            found["names"] = cache.pack(names)
        cache.save("records", self._cache_key, **found)
        return found

    def _read_rows(self, rows: range) -> list[bytes]:
        try:
            return self._records.__getitems__(list(rows))
        except (RuntimeError, ValueError):  # a damaged block: one by one, to save the others
            return [self._read_row(i) for i in rows]

    def _read_row(self, index: int) -> bytes:
        try:
            return self._records[index]
        except (RuntimeError, ValueError):
            return b""


def load(path: str, split: str) -> RecordSource:
    """The records of the shards that `path` (a file, a folder, a glob, a URL) names, in order.

    Of a folder whose files name parts, `train-*` and `test-*`, the training files, and for
    evaluation the held-out ones: see `splits.choose_files`; `FOLDER#.` is all of them.

    A `manifest.json` beside them may name the classes: {"class_names": [...]}.

    Raises:
      UserError: no such file, one that is no ArrayRecord, or records that are no images.
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
    except Exception as e:  # the reader's own, of any type
        line = str(e).strip().partition("\n")[0]
        raise UserError(f"{name}: not whole ArrayRecord files ({line})") from None
    stats = [(shard, *files.size_and_time("array_record", shard)) for shard in shards]
    manifest = _manifest(name, shards[0])
    names = _class_names(name, Path(shards[0]).parent / MANIFEST, manifest)
    source = RecordSource(
        name, records, stats, class_names=names, digests=_digests(shards, manifest)
    )
    source.left_out = {**left_out, **source.left_out}
    return source


def held_out(path: str) -> RecordSource | None:
    """The validation files, or the test files, of a folder that also holds training files."""
    if files.is_remote(path) or not Path(path).expanduser().is_dir():
        return None
    held = load(path, "eval")
    return held if held.name != f"array_record:{path}" else None


def _manifest(name: str, shard: str) -> Mapping[str, Any]:
    """What lies beside a shard, {} where there is none."""
    file = Path(shard).parent / MANIFEST
    if files.is_remote(shard) or not file.is_file():
        return {}
    try:
        found = from_json(file.read_text())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{name}: {file} is not a JSON object")
    return found


def _digests(shards: Sequence[str], manifest: Mapping[str, Any]) -> list[str]:
    """Digests of the shards that `ssl-jax prepare` wrote; [] unless it wrote all of them."""
    parts = manifest.get("shards")
    entries = [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    known = {part.get("name"): str(part.get("blake2b", "")) for part in entries}
    found = [known.get(Path(shard).name, "") for shard in shards]
    return found if all(found) and len({Path(s).parent for s in shards}) == 1 else []


def _class_names(name: str, file: Path, manifest: Mapping[str, Any]) -> tuple[str, ...]:
    names = manifest.get("class_names", [])
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise UserError(f"{name}: class_names of {file} are no list of texts")
    return tuple(names)
