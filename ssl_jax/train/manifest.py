"""What the files of a checkpoint are: sizes and digests, written when all of them lie there.

The storage layer's own checks do not see every flipped bit, nor that a file is gone.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ssl_jax.core.files import replacing
from ssl_jax.core.plain import from_json

NAME = "manifest.json"


def write(folder: Path, **facts: Any) -> None:
    """Digest every file below `folder` and write the manifest, with `facts` in it, atomically.

    Raises:
      OSError: a file cannot be read, or the manifest not be written.
    """
    said = {"time": time.time(), "files": _digests(folder, _names(folder)), **facts}
    with replacing(folder / NAME) as temporary, temporary.open("w") as file:
        file.write(json.dumps(said | {"sha256": _own_digest(said)}, indent=1, sort_keys=True))
        file.flush()
        os.fsync(file.fileno())


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint; {} if there is none, or not as it was written."""
    try:
        found = from_json((folder / NAME).read_text())
        return found if found.pop("sha256") == _own_digest(found) else {}
    except (OSError, ValueError, KeyError, AttributeError):
        return {}


def damage(folder: Path) -> str:
    """What is wrong with the files of a checkpoint, "" if nothing is."""
    if not (folder / NAME).exists():
        return f"it has no {NAME}: its writing was never finished"
    known = read(folder).get("files")
    if known is None:
        return f"{NAME} is not what was written"
    there = _names(folder)
    for name in known:
        if name not in there:
            return f"{name} is missing"
    try:
        found = _digests(folder, there)
    except OSError as e:
        return f"{e.filename} cannot be read: {e.strerror}"
    for name, file in found.items():
        if name not in known:
            return f"{name} does not belong there"
        if file != known[name]:
            return f"{name} is not what was written"
    return ""


def size(manifest: Mapping[str, Any]) -> int:
    """Bytes of all files."""
    return sum(file["bytes"] for file in manifest.get("files", {}).values())


def _own_digest(said: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _names(folder: Path) -> set[str]:
    own = {NAME, f".{NAME}.tmp"}
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix() for path in files} - own


def _digests(folder: Path, names: set[str]) -> dict[str, dict[str, Any]]:
    def one(name: str) -> dict[str, Any]:
        with (folder / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return {"bytes": file.tell(), "sha256": digest}

    ordered = sorted(names)
    with ThreadPoolExecutor(4) as pool:  # digesting releases the GIL
        return dict(zip(ordered, pool.map(one, ordered), strict=True))
