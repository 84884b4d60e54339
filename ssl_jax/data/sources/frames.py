"""`frames:/path`: clips, each a folder of image files."""

import re
from itertools import groupby
from pathlib import Path

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.listing import image_paths
from ssl_jax.data.sources.base import Source
from ssl_jax.data.sources.folder import FolderSource, top_folders


class FramesSource(Source):
    """Clips: consecutive rows of `files`, `lengths` of them each."""

    def __init__(
        self, name: str, files: FolderSource, clips: list[str], lengths: np.ndarray
    ) -> None:
        self.name, self.lengths = name, lengths
        self.labels, self.class_names = top_folders(clips)
        self._files, self._clips = files, clips
        self._first = np.cumsum(lengths) - lengths
        self._middle = lengths // 2

    def __len__(self) -> int:
        return len(self._clips)

    def read(self, index: int) -> bytes:
        return self.read_frame(index, int(self._middle[index]))

    def read_frame(self, index: int, frame: int) -> bytes:
        return self._files.read(int(self._first[index]) + frame)

    def describe(self, index: int) -> str:
        return str(Path(self._files.describe(int(self._first[index]))).parent)

    def fingerprint(self) -> str:
        """Digest of the relative paths and file sizes."""
        return self._files.fingerprint()


def load(path: str, split: str) -> FramesSource:
    """Each folder at or below `path` that holds images is a clip, its frames in order of their
    names, whose numbers count as numbers (9.jpg before 10.jpg).

    A clip's label is the name of the top-level folder that it lies in, as of an image in `folder:`.

    Raises:
      UserError: no such folder, or no image in it.
    """
    root = Path(path).expanduser()
    if not path or not root.is_dir():
        raise UserError(f"frames:{path}: no such folder")
    paths = sorted(image_paths(str(root), f"frames:{path}"), key=_order)
    clips = [(clip, len(list(frames))) for clip, frames in groupby(paths, _folder)]
    lengths = np.array([n for _, n in clips], np.int32)
    files = FolderSource(f"frames:{path}", root, paths)
    return FramesSource(files.name, files, [clip for clip, _ in clips], lengths)


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _order(path: str) -> tuple:
    parts = re.split(r"(\d+)", path.rpartition("/")[2])
    return _folder(path), [int(p) if i % 2 else p for i, p in enumerate(parts)], path
