"""Atomic writes and locks for files that other processes read while they are written."""

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ssl_jax.core.errors import UserError

SHARED_SECONDS = 30  # a network file system may show a file with this delay
_TEMPORARY = ".tmp-"  # between the file's name and the writer's id
_HOME = re.compile(r"""(?<![^=,:+*'"])~[\w.-]*(?=[/,+'"]|$)""")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write a file or folder to; on success it replaces `path`.

    Readers see either the old or the new content, never a part, even after a power cut. Unfinished
    files are removed. Each writer has its own path; the last to finish wins.
    """
    temporary = path.with_name(f".{path.name[:48]}{_TEMPORARY}{uuid.uuid4().hex[:8]}")
    try:
        yield temporary
        if not temporary.is_dir():
            sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON to `path` atomically, see `replacing`."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def is_temporary(name: str) -> bool:
    """True if `name` is that of a temporary file of `replacing`."""
    return name.startswith(".") and _TEMPORARY in name


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk.

    Raises:
      OSError: the disk reports an error.
    """
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):  # some file systems lack it
            raise
    finally:
        os.close(number)


def unwritable(folder: Path) -> str:
    """Return why no file can be written in `folder`, or created where it would be; "" if one can.
    Nothing remains.
    """
    try:
        with tempfile.TemporaryFile(dir=existing(folder)):
            return ""
    except OSError as e:
        return e.strerror or str(e)


def existing(path: Path) -> Path:
    """Return `path` if it exists, else the nearest folder above it that does."""
    there = Path(os.path.abspath(path))  # noqa: PTH100  resolve() would follow links
    while not there.exists() and there != there.parent:
        there = there.parent
    return there


def host_memory() -> int:
    """Return the memory in bytes that this process may use: the machine's, or the container's
    limit if that is lower.
    """
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdecimal() else total


def home(text: str) -> str:
    """Expand each ~ that begins a path in `text`."""
    # Path.expanduser raises for unknown users.
    return _HOME.sub(lambda match: os.path.expanduser(match[0]), text)  # noqa: PTH111


@contextlib.contextmanager
def locked(folder: Path, unwritable: str, held: str) -> Iterator[None]:
    """Hold the lock on `folder`, which is created if needed. The lock is released when the process
    ends, however it ends.

    Raises:
      UserError: `unwritable` and the reason, or `held` if another process has the lock.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as e:
        raise UserError(f"{unwritable}: {e.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(held) from None
        except OSError as e:
            raise UserError(f"{unwritable}: {e.strerror}") from None
        yield


def await_shared(there: Callable[[], bool], otherwise: str) -> None:
    """Wait until this process sees a file that another process wrote.

    Raises:
      UserError: `otherwise`, if it is not there after `SHARED_SECONDS`.
    """
    deadline = time.monotonic() + SHARED_SECONDS
    while not there():
        if time.monotonic() > deadline:
            raise UserError(otherwise)
        time.sleep(0.2)
