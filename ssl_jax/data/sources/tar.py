"""`tar:GLOB`: images in tar files, including WebDataset shards; nothing is extracted.

`tar:GLOB#FOLDER` is the part below a folder of the archives, `tar:GLOB#.` everything.
"""

import gzip
import hashlib
import json
import os
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.plain import from_json
from ssl_jax.data import cache, files
from ssl_jax.data.decode import check_size
from ssl_jax.data.labels import number_texts
from ssl_jax.data.listing import EXTENSIONS, count_other_files, ending, image_endings
from ssl_jax.data.sources.base import Source
from ssl_jax.data.sources.folder import CAPTION_KEYS
from ssl_jax.data.splits import choose, top_folders
from ssl_jax.data.text import without_halves

MEMORY_LIMIT = 1 << 30  # bytes of a compressed archive, which is decompressed in memory
TEXT_LIMIT = 1 << 20  # bytes of a .cls, .txt or .json member
_BLOCK = 512
_GZIP = b"\x1f\x8b"
_FORM = 2  # version of the index in the cache
_TEXTS = (".cls", ".txt", ".json")


class TarSource(Source):
    """Images at byte ranges of `shards`.

    Args:
      name: name that the user gave.
      shards: the archives.
      entries: one per image: shard number, offset, size, name, label text or "", captions.
    """

    def __init__(
        self,
        name: str,
        shards: list["Shard"],
        entries: list[tuple],
        left_out: Mapping[str, int] | None = None,
    ) -> None:
        self.name, self.left_out = name, left_out or {}
        self._shards = shards
        shard, offsets, sizes, names, labels, captions = zip(*entries, strict=True)
        self._places = np.array([shard, offsets, sizes], np.int64).T
        self.names = self._names = names
        if any(labels):
            self.labels, self.class_names = number_texts(labels, name)
        else:
            self.labels, self.class_names = top_folders(list(names))
        if any(captions):
            self.captions = list(captions)

    def __len__(self) -> int:
        return len(self._places)

    def read(self, index: int) -> bytes:
        shard, offset, size = self._places[index].tolist()
        return self._shards[shard].read(offset, size)

    def describe(self, index: int) -> str:
        return f"{self._names[index]} in {self._shards[self._places[index, 0]].path}"

    def layout(self) -> str:
        """Digest the names, offsets and sizes of the images, and the labels."""
        digest = hashlib.blake2b(self._places.tobytes(), digest_size=16)
        digest.update("\0".join(self._names).encode("utf-8", "surrogateescape"))
        if self.labels is not None:
            digest.update(self.labels.tobytes())
        return digest.hexdigest()

    def content(self) -> Iterator[bytes]:
        """Yield labels, class names, captions and a sample of the bytes of the archives."""
        yield from super().content()
        paths = [shard.path for shard in self._shards]
        yield files.sample(paths, [Path(path).stat().st_size for path in paths])


class Shard:
    """One archive: a file, or its decompressed bytes."""

    def __init__(self, name: str, path: str) -> None:
        self.path, self._memory = path, None
        with Path(path).open("rb") as file:
            if file.read(2) == _GZIP:
                self._memory = _unpack(name, path)

    def open(self) -> IO[bytes]:
        return Path(self.path).open("rb") if self._memory is None else BytesIO(self._memory)

    def read(self, offset: int, size: int) -> bytes:
        check_size(size)
        if self._memory is not None:
            return self._memory[offset : offset + size]
        handle = os.open(self.path, os.O_RDONLY)
        try:
            data = os.pread(handle, size, offset)
        finally:
            os.close(handle)
        if len(data) < size:
            raise OSError(f"{self.path} ends within the image")
        return data


class Index(NamedTuple):
    """Content of a shard.

    Attributes:
      images: [offset, size, name, label text, captions] of each image, in the order of the archive.
      left_out: reason -> number of members left out.
      others: ending -> number of other members.
    """

    images: list[list]
    left_out: dict[str, int]
    others: dict[str, int]


def load(path: str, split: str) -> TarSource:
    """Open the images of the archives that `path` (a file, a folder, a glob) names, in order.

    Members whose file names agree up to the first dot are one sample, as in WebDataset: `.cls` is
    its label (number or name), `.txt` its caption, `.json` an object with `label` and `text`,
    `caption` or `captions`. Its image is NAME.ENDING, and other images of the sample
    (NAME.mask.png) are left out; without a NAME.ENDING, each of its images is an example
    (`walk.0001.png`, `walk.0002.png`) with the texts of the longest shared name. If no image has a
    label, labels are the top-level folders, and held-out images in `val/` are not used for
    training, as in `folder:`. An archive is indexed once; the index is cached with the archive's
    size and time.

    A gzipped archive of up to `MEMORY_LIMIT` is decompressed in memory.

    Raises:
      UserError: no such file, a corrupt or too large compressed one, or no image.
    """
    pattern, part = _pattern_and_part(path)
    name = f"tar:{path}"
    if files.is_remote(pattern):
        raise UserError(f"{name}: expected local tar files; URLs are not supported")
    shards = [Shard(name, p) for p in files.matching("tar", pattern, "*.tar")]
    indices = [_index(name, shard) for shard in shards]
    every = [(number, *image) for number, index in enumerate(indices) for image in index.images]
    chosen = choose([image[3] for image in every], part, split)
    prefix = f"{part.strip('/')}/" if part not in ("", ".") else ""
    entries = [
        (*place, member.removeprefix(prefix), label, captions)
        for *place, member, label, captions in (every[i] for i in chosen.rows)
    ]
    counts: Counter[str] = Counter()
    others: Counter[str] = Counter()
    for index in indices:
        counts.update(index.left_out)
        others.update(index.others)
    left_out = dict(counts) | count_other_files(others)
    if not entries:
        more = f"; left out: {', '.join(left_out)}" if left_out else ""
        raise UserError(f"{name}: no image in it; expected {image_endings()}{more}")
    if chosen.part:
        name += f"#{chosen.part}"
    held = {f"images {why}": n for why, n in chosen.left_out.items()}
    return TarSource(name, shards, entries, held | left_out)


def held_out(path: str) -> TarSource | None:
    """Open the images of the validation or test folder beside training folders of the archives."""
    if _pattern_and_part(path)[1]:
        return None
    held = load(path, "eval")
    return held if held.name != f"tar:{path}" else None


def _pattern_and_part(path: str) -> tuple[str, str]:
    if "#" in path and not Path(path).expanduser().exists():
        pattern, _, part = path.rpartition("#")
        return pattern, part
    return path, ""


def _index(name: str, shard: Shard) -> Index:
    stat = Path(shard.path).stat()
    stamp = np.array([stat.st_size, stat.st_mtime_ns, _FORM, len(EXTENSIONS)])
    key = os.path.abspath(shard.path)  # noqa: PTH100
    stored = cache.load("tar", key)
    if stored is not None and np.array_equal(stored.get("stamp", ()), stamp):
        return Index(*json.loads(stored["samples"].tobytes()))
    index = _scan(name, shard)
    packed = np.frombuffer(json.dumps(index).encode(), np.uint8)
    cache.save("tar", key, stamp=stamp, samples=packed)
    return index


def _scan(name: str, shard: Shard) -> Index:
    members = _Members()
    with shard.open() as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                end = 0
                while (member := archive.next()) is not None:
                    if archive.offset <= end:  # a negative size would read in circles
                        raise tarfile.ReadError(f"corrupt at byte {end}")
                    end = archive.offset
                    members.add(member, file)
                    archive.members = []  # type: ignore[attr-defined]  # else it would hold them all
                end = archive.offset
        except (tarfile.TarError, EOFError, OSError) as e:
            raise UserError(f"{name}: {shard.path} is not a complete tar file ({e})") from None
        file.seek(end)
        if file.read(_BLOCK).strip(b"\0"):  # tarfile takes a corrupt header for the end
            raise UserError(f"{name}: {shard.path} is corrupt at byte {end}")
    return members.index()


class _Members:
    """Members of one archive: the images, and the texts by the name of their sample."""

    def __init__(self) -> None:
        self._images: list[tuple[int, int, str]] = []  # offset, size, path
        self._texts: dict[str, tuple[str, list[str]]] = {}  # label, captions
        self._others: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()

    def add(self, member: tarfile.TarInfo, file: IO[bytes]) -> None:
        """Record one member; read it if it is a text."""
        path = member.name.removeprefix("./")
        last = path.rpartition("/")[2]
        if member.isdir() or last.startswith("."):
            return
        if not member.isreg() or member.issparse():
            self._left_out["files that are links or sparse"] += 1
        elif last.lower().endswith(EXTENSIONS):
            self._images.append((member.offset_data, member.size, path))
        elif (kind := ending(last)) not in _TEXTS:
            self._others[kind] += 1
        elif member.size > TEXT_LIMIT:
            self._left_out[f"{kind} of more than {TEXT_LIMIT >> 20} MiB"] += 1
        else:
            file.seek(member.offset_data)
            text = without_halves(file.read(member.size).decode(errors="replace").strip())
            self._add_text(path[: -len(kind)], kind, text)

    def index(self) -> Index:
        """Return the images with their texts; of samples with a NAME.ENDING only that image."""
        plain: set[str] = set()
        images = []
        for offset, size, path in self._images:
            stem = os.path.splitext(path)[0]  # noqa: PTH122
            key = _keys(stem)[-1]
            if stem == key and key not in plain:
                plain.add(key)
                images.append((offset, size, path, stem))
        chosen = {path for _, _, path, _ in images}
        for offset, size, path in self._images:
            stem = os.path.splitext(path)[0]  # noqa: PTH122
            if _keys(stem)[-1] not in plain:
                images.append((offset, size, path, stem))
            elif path not in chosen:
                self._left_out["further images of samples that have NAME.ENDING"] += 1
        rows = []
        for offset, size, path, stem in sorted(images):
            texts = [self._texts[key] for key in _keys(stem) if key in self._texts]
            label = next((label for label, _ in texts if label), "")
            captions = next((captions for _, captions in texts if captions), [])
            rows.append([offset, size, path, label, captions])
        return Index(rows, dict(self._left_out), dict(self._others))

    def _add_text(self, stem: str, kind: str, text: str) -> None:
        label, captions = self._texts.get(stem, ("", []))
        if kind == ".cls":
            label = text
        elif kind == ".txt":
            captions = [*captions, text]
        else:
            json_label, more = self._from_json(text)
            label, captions = label or json_label, captions + more
        self._texts[stem] = label, captions

    def _from_json(self, text: str) -> tuple[str, list[str]]:
        """Read label and captions of a .json member."""
        try:
            content = from_json(text)
        except ValueError:
            content = None
        if not isinstance(content, dict):
            self._left_out[".json files without an object"] += 1
            return "", []
        label = _label_text(content.get("label"))
        if label is None:
            self._left_out["labels in .json, neither whole number nor text"] += 1
        value: Any = next((content[k] for k in CAPTION_KEYS if k in content), [])
        texts = value if isinstance(value, list) else [value]
        captions = [without_halves(text) for text in texts if isinstance(text, str) and text]
        return label or "", captions


def _label_text(value: Any) -> str | None:
    """Convert a label in JSON to text, "" for none; None if it is not a label."""
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, str):
        return without_halves(value)
    if isinstance(value, (int, float)):  # a bool is 0 or 1
        return str(int(value)) if value == value // 1 else None
    return None


def _keys(stem: str) -> Sequence[str]:
    """List the names that the texts of an image may have, longest first: a/b.c.d, a/b.c, a/b."""
    folder, slash, last = stem.rpartition("/")
    parts = last.split(".")
    return [f"{folder}{slash}{'.'.join(parts[:n])}" for n in range(len(parts), 0, -1)]


def _unpack(name: str, path: str) -> bytes:
    try:
        with gzip.open(path) as file:
            data = file.read(MEMORY_LIMIT + 1)
    except (OSError, EOFError, zlib.error) as e:
        raise UserError(f"{name}: {path} is not a complete gzip file ({e})") from None
    if len(data) > MEMORY_LIMIT:
        raise UserError(
            f"{name}: expected at most {MEMORY_LIMIT >> 20} MiB in the compressed archive {path}, "
            "which is held in memory; gunzip it first"
        )
    return data
