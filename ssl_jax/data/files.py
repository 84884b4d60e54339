"""Lookup and sampling of files named by a path, a folder or a glob, local or on a remote store."""

import fnmatch
import glob
import hashlib
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np

from ssl_jax.core.errors import UserError

_GS_PATIENCE = "?retry_limit_seconds=20"  # by default Arrow retries for a quarter of an hour
# Without chains of file systems ("filecache::") and files that name others ("reference://").
STORES = "gs gcs s3 s3a hdfs viewfs abfs abfss az adl http https hf oss sftp ftp file memory"
_WILD = re.compile(r"[*?\[]")
WHOLE_BYTES, WHOLE_FILES = 256 << 20, 20_000  # up to these `sample` reads every byte
READS, REMOTE_READS = 4096, 64  # blocks that it reads of larger sets
_BLOCK = 4096
_READERS = 16


def is_remote(path: str) -> bool:
    return "://" in path


def absolute(path: str) -> str:
    """Make a local path absolute; URLs and "" stay as they are."""
    if not path or is_remote(path):
        return path
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111 (globs, no links)


def sample(paths: Sequence[str], sizes: Sequence[int] | np.ndarray, scheme: str = "") -> bytes:
    """Digest the bytes of files: all bytes of small sets; of large ones blocks of 4 KiB at `READS`
    positions, evenly over all their bytes, and the end of each file with such a position.

    So the cost is bounded, and one changed image among a hundred thousand may go unnoticed. Files
    that cannot be read count as empty.
    """
    remote = any(map(is_remote, paths))
    ends = np.cumsum(np.maximum(np.asarray(sizes, np.int64), 0))
    total = int(ends[-1]) if len(ends) else 0
    whole = total <= WHOLE_BYTES and len(paths) <= WHOLE_FILES and not remote
    places: dict[int, list[int]] = {}
    if whole:
        places = {number: [] for number in range(len(paths))}
    else:
        at = np.linspace(0, total - 1, REMOTE_READS if remote else READS).astype(np.int64)
        for number, place in zip(np.searchsorted(ends, at, "right").tolist(), at, strict=True):
            start = int(ends[number - 1]) if number else 0
            places.setdefault(number, [max(0, int(sizes[number]) - _BLOCK)]).append(place - start)

    def read(number: int) -> bytes:
        digest = hashlib.blake2b(digest_size=16)
        try:
            with _opened(scheme, paths[number]) as file:
                for offset in places[number]:
                    file.seek(int(offset))
                    digest.update(file.read(_BLOCK))
                while whole and (block := file.read(1 << 20)):
                    digest.update(block)
        except (OSError, UserError):
            pass  # the reader replaces corrupt images later
        return digest.digest()

    with ThreadPoolExecutor(_READERS) as pool:
        return hashlib.blake2b(b"".join(pool.map(read, places)), digest_size=16).digest()


def _opened(scheme: str, path: str) -> IO[bytes] | Any:
    if not is_remote(path):
        return open(path, "rb")  # noqa: PTH123 (a third of Path's cost)
    filesystem, inner = remote_filesystem(scheme, path)
    return filesystem.open_input_file(inner)


def matching(scheme: str, pattern: str, inside: str) -> list[str]:
    """List the files that `pattern`, a file, a glob or a folder, names; sorted paths.

    Args:
      scheme: scheme of the data set, for messages.
      pattern: a local path, or a URL (`gs://bucket/x-*`).
      inside: glob of the files to list in a folder.

    Raises:
      UserError: no such file, or an unreachable remote store.
    """
    if is_remote(pattern):
        paths = _remote(scheme, pattern, inside)
    else:
        path = Path(pattern).expanduser()
        if pattern and path.is_dir():
            inner = [p for p in path.rglob(inside) if p.is_file()]
            paths = [str(p) for p in inner if not p.name.startswith(".")]  # as globs do
        elif path.is_file():
            paths = [str(path)]
        else:
            names = glob.glob(str(path), recursive=True)  # noqa: PTH207 (pattern may be absolute)
            paths = [n for n in names if Path(n).is_file()]
    if not paths:
        raise UserError(f"{scheme}:{pattern}: no such file; expected a path, a folder or a glob")
    return sorted(paths)


def size_and_time(scheme: str, path: str) -> tuple[int, int]:
    """Return the size of a file in bytes and its modification time in ns."""
    if not is_remote(path):
        stat = Path(path).stat()
        return stat.st_size, stat.st_mtime_ns
    filesystem, path = remote_filesystem(scheme, path)
    info = filesystem.get_file_info(path)
    return info.size or 0, info.mtime_ns or 0


def remote_filesystem(scheme: str, url: str) -> tuple[Any, str]:
    """Return a `pyarrow.fs.FileSystem`, Arrow's (gs, s3, hdfs) or fsspec's, and the path on it.

    Raises:
      UserError: an unknown kind of URL, or a missing package.
    """
    if url.partition("://")[0] not in STORES.split():
        raise UserError(f"{scheme}:{url}: cannot be opened (known stores: {STORES})")
    import fsspec
    import pyarrow as pa
    import pyarrow.fs

    try:
        return pa.fs.FileSystem.from_uri(url + _GS_PATIENCE if url.startswith("gs://") else url)
    except (pa.ArrowException, OSError, ValueError):
        pass
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except Exception as e:  # each store raises its own
        raise UserError(f"{scheme}:{url}: cannot be opened ({_line(e)})") from None
    return pa.fs.PyFileSystem(pa.fs.FSSpecHandler(filesystem)), path


def _remote(scheme: str, url: str, inside: str) -> list[str]:
    import pyarrow.fs as fs

    wild = _WILD.search(url)
    base = url[: wild.start()].rpartition("/")[0] if wild else url
    try:
        filesystem, root = remote_filesystem(scheme, base)
        info = filesystem.get_file_info(root)
        if info.type == fs.FileType.File:
            return [url]
        selector = fs.FileSelector(root, recursive=True, allow_not_found=True)
        listed = [i.path for i in filesystem.get_file_info(selector) if i.is_file]
    except UserError:
        raise
    except Exception as e:  # each store raises its own
        raise UserError(f"{scheme}:{url}: cannot be listed ({_line(e)})") from None
    names = [path[len(root) :].lstrip("/") for path in listed]
    if wild:
        try:
            regex = re.compile(_glob_regex(url[len(base) + 1 :]))
        except re.error as e:
            raise UserError(f"{scheme}:{url}: not a glob ({e})") from None
        names = [n for n in names if regex.fullmatch(n)]
    else:
        names = [n for n in names if fnmatch.fnmatch(n.rpartition("/")[2], inside)]
    names = [n for n in names if not n.rpartition("/")[2].startswith(".")]
    return [f"{base.rstrip('/')}/{n}" for n in names]


def _glob_regex(pattern: str) -> str:
    """Convert a glob to a regex; `*` stays within a folder, `**/` is any number of folders."""
    parts = re.split(r"(\*\*/|\*|\?|\[[^\]]*\])", pattern)
    wild = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    return "".join(wild.get(p) or (p if p.startswith("[") else re.escape(p)) for p in parts)


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
