"""The manifest of a checkpoint: sizes and digests of its files, written once all of them exist.

The storage layer's own checks miss some flipped bits and missing files.
"""

import hashlib
import json
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ssl_jax.core.files import is_temporary, replacing, sync
from ssl_jax.core.plain import from_json

NAME = "manifest.json"
_STEP = re.compile("0|[1-9][0-9]{0,17}")  # the name of a checkpoint's folder


def numbered(folder: Path) -> list[int]:
    """List the steps that the folders in `folder` are named after, ascending."""
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if _STEP.fullmatch(p.name) and p.is_dir())


def steps(folder: Path) -> list[int]:
    """List the steps that have a manifest, ascending, without verifying their files."""
    return [step for step in numbered(folder) if (folder / str(step) / NAME).exists()]


def write(folder: Path, **facts: Any) -> None:
    """Digest every file below `folder` and write the manifest, with `facts` in it, atomically, when
    all of them are on the disk.

    Raises:
      OSError: a file cannot be read, or the manifest not be written.
    """
    names = _names(folder)
    for path in {folder / name for name in names}:
        sync(path)
    for path in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        sync(path)
    content = {"time": time.time(), "files": _digests(folder, names), **facts}
    with replacing(folder / NAME) as temporary:
        text = json.dumps(content | {"sha256": _own_digest(content)}, indent=1, sort_keys=True)
        temporary.write_text(text)
    sync(folder.parent)


def read(folder: Path) -> dict[str, Any]:
    """Read the manifest of a checkpoint; {} if there is none or it was altered."""
    try:
        content = from_json((folder / NAME).read_text())
        return content if content.pop("sha256") == _own_digest(content) else {}
    except (OSError, ValueError, KeyError, AttributeError):
        return {}


def damage(folder: Path) -> str:
    """Describe what is wrong with the files of a checkpoint, "" if nothing is."""
    if not (folder / NAME).exists():
        return f"it has no {NAME}: its writing was never finished"
    recorded = read(folder).get("files")
    if recorded is None:
        return f"{NAME} is not what was written"
    there = _names(folder)
    for name in recorded:
        if name not in there:
            return f"{name} is missing"
    try:
        digests = _digests(folder, there)
    except OSError as e:
        return f"{e.filename} cannot be read: {e.strerror}"
    for name, file in digests.items():
        if name not in recorded:
            return f"{name} does not belong there"
        if file != recorded[name]:
            return f"{name} is not what was written"
    return ""


def size(manifest: Mapping[str, Any]) -> int:
    """Return the total size of all files in bytes."""
    return sum(file["bytes"] for file in manifest.get("files", {}).values())


def _own_digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _names(folder: Path) -> set[str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix() for path in files}
    return {n for n in names if n not in (NAME, f".{NAME}.tmp") and not is_temporary(n)}


def _digests(folder: Path, names: set[str]) -> dict[str, dict[str, Any]]:
    def describe(name: str) -> dict[str, Any]:
        with (folder / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return {"bytes": file.tell(), "sha256": digest}

    ordered = sorted(names)
    with ThreadPoolExecutor(4) as pool:  # digesting releases the GIL
        return dict(zip(ordered, pool.map(describe, ordered), strict=True))
