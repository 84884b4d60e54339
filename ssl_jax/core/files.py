"""Files that others look at while they are written: whole or not there, one writer at a time."""

import contextlib
import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ssl_jax.core.errors import UserError

SHARED_SECONDS = 30  # a network file system may show a file so much later


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file or folder to, which takes its place once all is written:
    a reader sees the old one or the new one, never a part. What is half done is removed.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write as `replacing` does."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def write_json(path: Path, value: Any) -> None:
    """Write as `replacing` does."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


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
        except OSError:
            raise UserError(held) from None
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
