"""Fast, cached listing of the image files below a folder."""

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image, features

from ssl_jax.core.errors import UserError
from ssl_jax.data import cache
from ssl_jax.data.decode import FORMATS

CACHED_FROM = 2000  # images; smaller folders are not worth caching
_SETTLED_NS = 2 * 10**9  # a folder that changed more recently may change again with the same time
_OPTIONAL = {"WEBP": "webp", "JPEG2000": "jpg_2000", "AVIF": "avif"}  # Pillow may lack them
_SHOWN = 8  # endings named in messages


def _extensions() -> tuple[str, ...]:
    """Return the file endings of `FORMATS` that the installed Pillow reads."""
    here = {f for f in FORMATS if f not in _OPTIONAL or features.check(_OPTIONAL[f])}
    return tuple(sorted(e for e, form in Image.registered_extensions().items() if form in here))


EXTENSIONS = _extensions()


class Listing(NamedTuple):
    """Sorted paths of images, and the number of other files by ending."""

    paths: list[str]
    others: Mapping[str, int]


def image_files(root: str, name: str) -> Listing:
    """List the images below `root`, as relative paths with "/", and count other files.

    Links are followed, except to a parent folder; hidden files and folders are left out. The list
    of a large tree is cached with the modification time of each folder in it, which changes
    whenever a file is added, removed or renamed.

    Raises:
      UserError: a folder that cannot be listed, or no image at all.
    """
    root = os.path.abspath(root)  # noqa: PTH100 (Path.resolve would follow links)
    key = f"{root}\n{EXTENSIONS}"
    stored = cache.load("folder", key)
    if stored is not None and _unchanged(root, stored):
        return Listing(cache.unpack(stored["paths"]), json.loads(stored["others"].tobytes()))
    start = time.time_ns()
    paths, folders, others = _walk(root, name)
    if not paths:
        more = f"; it holds {endings(others)}" if others else ""
        raise UserError(f"{name}: no image in or below it; expected {image_endings()}{more}")
    paths.sort()
    if len(paths) >= CACHED_FROM and max(folders.values()) < start - _SETTLED_NS:
        times = np.fromiter(folders.values(), np.int64)
        packed = cache.pack([f"/{f}" for f in folders])
        counts = np.frombuffer(json.dumps(others).encode(), np.uint8)
        cache.save(
            "folder", key, paths=cache.pack(paths), folders=packed, times=times, others=counts
        )
    return Listing(paths, others)


def ending(file: str) -> str:
    """Return the ending of a file's name in lower case, ".heic", or "no ending"."""
    return os.path.splitext(file)[1].lower() or "no ending"  # noqa: PTH122 (a third of Path's cost)


def endings(counts: Mapping[str, int]) -> str:
    """Format counts as `10 .heic, 2 .txt`, the most frequent first."""
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{count:,} {name}" for name, count in most[:_SHOWN]]
    rest = sum(count for _, count in most[_SHOWN:])
    return ", ".join([*parts, f"{rest:,} with other endings"] if rest else parts)


def image_endings() -> str:
    """List the endings of images for messages, the usual ones first."""
    usual = (".jpg", ".jpeg", ".png")
    return ", ".join(e[1:] for e in (*usual, *(e for e in EXTENSIONS if e not in usual)))


def count_other_files(others: Mapping[str, int], expected: Iterable[str] = ()) -> dict[str, int]:
    """Return `Source.left_out` for files that are not images, without the `expected` endings."""
    rest = {e: n for e, n in others.items() if e not in set(expected)}
    return {f"files with other endings ({endings(rest)})": sum(rest.values())} if rest else {}


def _unchanged(root: str, stored: dict[str, np.ndarray]) -> bool:
    try:
        times = [os.stat(root + f).st_mtime_ns for f in cache.unpack(stored["folders"])]  # noqa: PTH116
        return np.array_equal(times, stored["times"]) and "others" in stored
    except (OSError, KeyError):
        return False


def _walk(root: str, name: str) -> tuple[list[str], dict[str, int], Counter[str]]:
    """Walk the tree; return the images' paths in any order, the modification time of each folder in
    ns, and the number of other files by ending.
    """
    paths: list[str] = []
    folders: dict[str, int] = {}
    others: Counter[str] = Counter()
    todo: list[tuple[str, frozenset]] = [("", frozenset())]  # folder, and its parents
    while todo:
        prefix, above = todo.pop()
        try:
            stat = os.stat(f"{root}/{prefix}")  # noqa: PTH116 (twice as fast as Path's)
            here = (stat.st_dev, stat.st_ino)
            if here in above:
                continue  # a link to a parent folder
            folders[prefix] = stat.st_mtime_ns
            with os.scandir(f"{root}/{prefix}") as scan:
                for entry in scan:
                    if entry.name.startswith("."):
                        continue
                    if entry.name.lower().endswith(EXTENSIONS) and entry.is_file():
                        paths.append(prefix + entry.name)
                    elif entry.is_dir():
                        todo.append((f"{prefix}{entry.name}/", above | {here}))
                    else:
                        others[ending(entry.name) if entry.is_file() else "broken links"] += 1
        except OSError as e:
            raise UserError(f"{name}: {prefix or root} cannot be listed ({e.strerror})") from None
    return paths, folders, others
