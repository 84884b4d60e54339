"""The files that a path, a folder or a glob names, here or on a remote store."""

import fnmatch
import glob
import re
from pathlib import Path
from typing import Any

from ssl_jax.core.errors import UserError

_GS_PATIENCE = "?retry_limit_seconds=20"  # else Arrow tries for a quarter of an hour
# Neither chains of file systems ("filecache::"), nor files that name others ("reference://").
STORES = "gs gcs s3 s3a hdfs viewfs abfs abfss az adl http https hf oss sftp ftp file memory"
_WILD = re.compile(r"[*?\[]")


def is_remote(path: str) -> bool:
    return "://" in path


def matching(scheme: str, pattern: str, inside: str) -> list[str]:
    """Sorted paths of the files that `pattern` names: a file, a glob, or a folder.

    Args:
      scheme: for messages.
      pattern: a path here, or a URL (`gs://bucket/x-*`).
      inside: glob of what is wanted of a folder.

    Raises:
      UserError: no such file, or a remote store that cannot be reached.
    """
    if is_remote(pattern):
        paths = _remote(scheme, pattern, inside)
    else:
        path = Path(pattern).expanduser()
        if pattern and path.is_dir():
            found = [p for p in path.rglob(inside) if p.is_file()]
            paths = [str(p) for p in found if not p.name.startswith(".")]  # as of a glob
        elif path.is_file():
            paths = [str(path)]
        else:
            names = glob.glob(str(path), recursive=True)  # noqa: PTH207 (of an absolute pattern)
            paths = [n for n in names if Path(n).is_file()]
    if not paths:
        raise UserError(f"{scheme}:{pattern}: no such file; expected a path, a folder or a glob")
    return sorted(paths)


def size_and_time(scheme: str, path: str) -> tuple[int, int]:
    """Bytes of a file, and when it last changed, in ns."""
    if not is_remote(path):
        stat = Path(path).stat()
        return stat.st_size, stat.st_mtime_ns
    filesystem, path = remote_filesystem(scheme, path)
    info = filesystem.get_file_info(path)
    return info.size or 0, info.mtime_ns or 0


def remote_filesystem(scheme: str, url: str) -> tuple[Any, str]:
    """A `pyarrow.fs.FileSystem` and the path on it: Arrow's own (gs, s3, hdfs), else fsspec's.

    Raises:
      UserError: a kind of URL that neither knows, or a package that is needed for it.
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
        found = [i.path for i in filesystem.get_file_info(selector) if i.is_file]
    except UserError:
        raise
    except Exception as e:  # each store raises its own
        raise UserError(f"{scheme}:{url}: cannot be listed ({_line(e)})") from None
    names = [path[len(root) :].lstrip("/") for path in found]
    if wild:
        try:
            wanted = re.compile(_glob_regex(url[len(base) + 1 :]))
        except re.error as e:
            raise UserError(f"{scheme}:{url}: no glob ({e})") from None
        names = [n for n in names if wanted.fullmatch(n)]
    else:
        names = [n for n in names if fnmatch.fnmatch(n.rpartition("/")[2], inside)]
    names = [n for n in names if not n.rpartition("/")[2].startswith(".")]
    return [f"{base.rstrip('/')}/{n}" for n in names]


def _glob_regex(pattern: str) -> str:
    """A glob whose `*` stays within a folder, but for `**/`, which is any number of them."""
    parts = re.split(r"(\*\*/|\*|\?|\[[^\]]*\])", pattern)
    wild = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    return "".join(wild.get(p) or (p if p.startswith("[") else re.escape(p)) for p in parts)


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
