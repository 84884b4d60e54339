"""Cache of results of slow passes over data sets: file lists, offsets, labels.

Files lie in `$SSL_JAX_CACHE`, or else in `ssl_jax` in the user's cache folder. Readers check that
an entry still matches the data. A cache that cannot be written or read costs time, but no run
fails.
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
    """Return the folder of the cache.

    Raises:
      OSError: there is none, as for a container's user without a name and without HOME.
    """
    try:
        return _folder()
    except RuntimeError as e:  # raised by `expanduser`
        raise OSError(str(e)) from None


def _folder() -> Path:
    if named := os.environ.get("SSL_JAX_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ssl_jax"


def load(kind: str, key: str) -> dict[str, np.ndarray] | None:
    """Load the arrays saved under (`kind`, `key`); None if there are none, or not readable."""
    try:
        with np.load(_file(kind, key), allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None


def save(kind: str, key: str, **arrays: np.ndarray) -> None:
    """Save `arrays`, replacing an older entry atomically: readers see either version whole."""
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
    """Pack strings without zero characters in a uint8 array; it loads thousands of times faster."""
    return np.frombuffer("\0".join(strings).encode("utf-8", "surrogateescape"), np.uint8)


def unpack(packed: np.ndarray) -> list[str]:
    """Invert `pack`; no strings and one empty string both give an empty list."""
    text = packed.tobytes().decode("utf-8", "surrogateescape")
    return text.split("\0") if text else []


def _file(kind: str, key: str) -> Path:
    name = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    return folder() / kind / f"{name}.npz"
