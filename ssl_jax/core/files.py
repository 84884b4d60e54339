"""Files that others look at while they are written: whole or not there, one writer at a time."""

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ssl_jax.core.errors import UserError

SHARED_SECONDS = 30  # a network file system may show a file so much later
_TEMPORARY = ".tmp-"  # between a file's name and what tells writers of it apart
_HOME = re.compile(r"""(?<![^=,:+*'"])~[\w.-]*(?=[/,+'"]|$)""")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file or folder to, which takes its place once all is written:
    a reader sees the old one or the new one, never a part, after a power cut too. What is half done
    is removed. Each writer has a path of its own; the last one to finish wins.
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
    """Write as `replacing` does."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write as `replacing` does."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def is_temporary(name: str) -> bool:
    """Whether a file of this name is one that `replacing` gives to write to."""
    return name.startswith(".") and _TEMPORARY in name


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk.

    Raises:
      OSError: the disk does not take it.
    """
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):  # of some file systems
            raise
    finally:
        os.close(number)


def home(text: str) -> str:
    """`text` with each ~ that begins a path in it as the folder that it stands for."""
    # Path.expanduser raises where there is no such user.
    return _HOME.sub(lambda found: os.path.expanduser(found[0]), text)  # noqa: PTH111


@contextlib.contextmanager
def locked(folder: Path, unwritable: str, held: str) -> Iterator[None]:
    """Hold the lock on `folder`, made if need be. It belongs to the process: it goes when that
    ends, however it ends.

    Raises:
      UserError: `unwritable`, with the reason after it, or `held` by another process.
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
    """Wait until this process sees what another one wrote.

    Raises:
      UserError: `otherwise`, as it does not for `SHARED_SECONDS`.
    """
    deadline = time.monotonic() + SHARED_SECONDS
    while not there():
        if time.monotonic() > deadline:
            raise UserError(otherwise)
        time.sleep(0.2)
