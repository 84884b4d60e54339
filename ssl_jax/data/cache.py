"""What was learnt of a data set by a long look, kept for the next run: lists, offsets, labels.

Files lie in `$SSL_JAX_CACHE`, else in `ssl_jax` of the user's cache folder. Who reads an entry
checks that it still fits the data. A cache that cannot be written or read costs time, never a run.
"""

import contextlib
import hashlib
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def folder() -> Path:
    """Where entries are kept.

    Raises:
      OSError: nowhere, as of a container's user without a name and without HOME.
    """
    try:
        return _folder()
    except RuntimeError as e:  # of `expanduser`
        raise OSError(str(e)) from None


def _folder() -> Path:
    if named := os.environ.get("SSL_JAX_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ssl_jax"


def load(kind: str, key: str) -> dict[str, np.ndarray] | None:
    """The arrays saved under (`kind`, `key`); None where there are none that can be read."""
    try:
        with np.load(_file(kind, key), allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None


def save(kind: str, key: str, **arrays: np.ndarray) -> None:
    """Keep `arrays`, in the place of what was there; a reader sees the old or the new, whole."""
    with contextlib.suppress(OSError):
        file = _file(kind, key)
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as out:
                np.savez(out, allow_pickle=False, **arrays)
            Path(name).replace(file)
        finally:
            Path(name).unlink(missing_ok=True)


def pack(strings: Sequence[str]) -> np.ndarray:
    """Strings without a zero character as one uint8 array, thousands of times faster to load."""
    return np.frombuffer("\0".join(strings).encode("utf-8", "surrogateescape"), np.uint8)


def unpack(packed: np.ndarray) -> list[str]:
    """The strings that `pack` was given; of none or of one empty string, none."""
    text = packed.tobytes().decode("utf-8", "surrogateescape")
    return text.split("\0") if text else []


def _file(kind: str, key: str) -> Path:
    name = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    return folder() / kind / f"{name}.npz"
