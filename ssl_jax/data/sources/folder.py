"""`folder:/path`: any tree of image files."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ssl_jax.core.errors import UserError

SPLITS = ()
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm")


class FolderSource:
    """The images below `root`, in the order of their sorted paths.

    An example's label is the name of the top-level sub-folder that it lies in, when every image
    lies in one and there are at least two of them; otherwise the set has no labels.
    """

    arrays: np.ndarray | None = None

    def __init__(self, name: str, root: Path, paths: list[str]) -> None:
        self.name = name
        self._root = root
        self._paths = paths  # relative, with "/"
        tops = [p.partition("/")[0] if "/" in p else "" for p in paths]
        names = sorted(set(tops))
        labelled = len(names) >= 2 and "" not in names
        self.class_names: tuple[str, ...] = tuple(names) if labelled else ()
        number = {n: i for i, n in enumerate(names)}
        self.labels = np.array([number[t] for t in tops], np.int32) if labelled else None

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> bytes:
        return (self._root / self._paths[index]).read_bytes()

    def describe(self, index: int) -> str:
        return str(self._root / self._paths[index])

    def fingerprint(self) -> str:
        """Digest of the relative paths and file sizes."""
        digest = hashlib.blake2b(digest_size=16)
        for path in self._paths:
            file = self._root / path
            size = file.stat().st_size if file.exists() else -1
            digest.update(f"{path}\0{size}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def load(path: str, split: str) -> FolderSource:
    """List the images below `path`; links are followed, hidden files and folders left out.

    Raises:
      UserError: no such folder, or no image in it.
    """
    root = Path(path).expanduser()
    if not path or not root.is_dir():
        raise UserError(f"folder:{path}: no such folder")
    paths = sorted(_images(str(root)))
    if not paths:
        kinds = ", ".join(e[1:] for e in EXTENSIONS)
        raise UserError(f"folder:{path}: no image in it or below it; looked for {kinds}")
    return FolderSource(f"folder:{path}", root, paths)


def _images(folder: str, prefix: str = "", above: frozenset = frozenset()) -> Iterator[str]:
    """Paths of the images below `folder`, relative to the first one, in no order."""
    try:
        stat = Path(folder).stat()
        if (stat.st_dev, stat.st_ino) in above:
            return  # a link to a folder that it lies in
        above |= {(stat.st_dev, stat.st_ino)}
        with os.scandir(folder) as scan:
            entries = [e for e in scan if not e.name.startswith(".")]
    except OSError as e:
        raise UserError(f"folder:{folder}: cannot be listed ({e.strerror})") from None
    for entry in entries:
        if entry.name.lower().endswith(EXTENSIONS) and entry.is_file():
            yield prefix + entry.name
        elif entry.is_dir():
            yield from _images(entry.path, f"{prefix}{entry.name}/", above)
