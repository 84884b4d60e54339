"""`tar:GLOB`: images in tar files, WebDataset shards among them; nothing is ever extracted.

`tar:GLOB#FOLDER` is the part below a folder of the archives.
"""

import gzip
import hashlib
import json
import os
import tarfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.plain import from_json
from ssl_jax.data import cache, files
from ssl_jax.data.decode import check_size
from ssl_jax.data.labels import number_texts
from ssl_jax.data.listing import EXTENSIONS
from ssl_jax.data.sources.base import Source
from ssl_jax.data.sources.folder import CAPTION_KEYS, top_folders

MEMORY_LIMIT = 1 << 30  # of an archive that is compressed, hence unpacked in memory
TEXT_LIMIT = 1 << 20  # of a .cls, .txt or .json member
_BLOCK = 512
_GZIP = b"\x1f\x8b"


class TarSource(Source):
    """Images at byte ranges of `shards`.

    Args:
      name: what the user called it.
      shards: paths, or the bytes of archives in memory.
      entries: one a sample: shard number, offset, size, name, label text or "", captions.
    """

    def __init__(self, name: str, shards: list["Shard"], entries: list[tuple]) -> None:
        self.name = name
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

    def fingerprint(self) -> str:
        """Digest of the names, offsets and sizes of the images, and of the labels."""
        digest = hashlib.blake2b(self._places.tobytes(), digest_size=16)
        digest.update("\0".join(self._names).encode("utf-8", "surrogateescape"))
        if self.labels is not None:
            digest.update(self.labels.tobytes())
        return digest.hexdigest()


class Shard:
    """One archive: a file, or its bytes where it was compressed."""

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


def load(path: str, split: str) -> TarSource:
    """The images of the archives that `path` (a file, a folder, a glob) names, in their order.

    Members that share their name up to the first dot of its last part are one sample: an image
    (the first, if several), `.cls` its label (number or name), `.txt` its caption, `.json` an
    object with `label` and `text`, `caption` or `captions`. Where no sample has a label, labels are
    the top-level folders, as in `folder:`. An archive is indexed once; the index is cached with the
    archive's size and time.

    A gzipped archive of up to `MEMORY_LIMIT` is unpacked in memory.

    Raises:
      UserError: no such file, a damaged or too large compressed one, no image.
    """
    pattern, _, part = path.partition("#")
    name = f"tar:{path}"
    if files.is_remote(pattern):
        raise UserError(f"{name}: tar files are read from this machine's disks only")
    shards = [Shard(name, p) for p in files.matching("tar", pattern, "*.tar")]
    prefix = f"{part.strip('/')}/" if part else ""
    entries = [
        (number, offset, size, member.removeprefix(prefix), label, captions)
        for number, shard in enumerate(shards)
        for offset, size, member, label, captions in _index(name, shard)
        if member.startswith(prefix)
    ]
    if not entries:
        kinds = ", ".join(e[1:] for e in EXTENSIONS)
        raise UserError(f"{name}: no image in it; looked for {kinds}")
    return TarSource(name, shards, entries)


def _index(name: str, shard: Shard) -> list[list]:
    """[offset, size, name, label text, captions] of each sample of a shard."""
    stat = Path(shard.path).stat()
    stamp = np.array([stat.st_size, stat.st_mtime_ns])
    key = os.path.abspath(shard.path)  # noqa: PTH100
    kept = cache.load("tar", key)
    if kept is not None and np.array_equal(kept.get("stamp", ()), stamp):
        return json.loads(kept["samples"].tobytes())
    samples = _scan(name, shard)
    packed = np.frombuffer(json.dumps(samples).encode(), np.uint8)
    cache.save("tar", key, stamp=stamp, samples=packed)
    return samples


def _scan(name: str, shard: Shard) -> list[list]:
    samples: dict[str, list] = {}
    with shard.open() as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                end = 0
                while (member := archive.next()) is not None:
                    if archive.offset <= end:  # a negative size: it would read in circles
                        raise tarfile.ReadError(f"damaged at byte {end}")
                    end = archive.offset
                    if member.isreg() and not member.issparse():
                        _add(samples, member, file)
                    archive.members = []  # type: ignore[attr-defined]  # it would keep them all
                end = archive.offset
        except (tarfile.TarError, EOFError, OSError) as e:
            raise UserError(f"{name}: {shard.path} is no whole tar file ({e})") from None
        file.seek(end)
        if file.read(_BLOCK).strip(b"\0"):  # tarfile takes a damaged header for the end
            raise UserError(f"{name}: {shard.path} is damaged at byte {end}")
    return [s for s in samples.values() if s[1] >= 0]


def _add(samples: dict[str, list], member: tarfile.TarInfo, file: IO[bytes]) -> None:
    """File `member` into the sample of its name."""
    path = member.name.removeprefix("./")
    folder, _, last = path.rpartition("/")
    stem, _, extension = last.lower().partition(".")
    if last.startswith("."):
        return
    sample = samples.setdefault(f"{folder}/{last[: len(stem)]}", [-1, -1, "", "", []])
    if f".{extension}".endswith(EXTENSIONS):
        if sample[1] < 0:
            sample[:3] = member.offset_data, member.size, path
    elif extension in ("cls", "txt", "json") and member.size <= TEXT_LIMIT:
        file.seek(member.offset_data)
        text = file.read(member.size).decode(errors="replace").strip()
        if extension == "cls":
            sample[3] = text
        elif extension == "txt":
            sample[4].append(text)
        else:
            _add_json(sample, text)


def _add_json(sample: list, text: str) -> None:
    try:
        content = from_json(text)
    except ValueError:
        return
    if not isinstance(content, dict):
        return
    if isinstance(content.get("label"), int | str):
        sample[3] = sample[3] or str(content["label"])
    found: Any = next((content[k] for k in CAPTION_KEYS if k in content), [])
    texts = found if isinstance(found, list) else [found]
    sample[4].extend(text for text in texts if isinstance(text, str) and text)


def _unpack(name: str, path: str) -> bytes:
    try:
        with gzip.open(path) as file:
            data = file.read(MEMORY_LIMIT + 1)
    except (OSError, EOFError, zlib.error) as e:
        raise UserError(f"{name}: {path} is no whole gzip file ({e})") from None
    if len(data) > MEMORY_LIMIT:
        raise UserError(
            f"{name}: {path} is compressed and larger than {MEMORY_LIMIT >> 20} MiB: no random "
            "access; gunzip it first"
        )
    return data
