"""`frames:/path`: clips, each a folder of image files; `frames:/path#PART`: those in one folder."""

import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.listing import count_other_files, image_files
from ssl_jax.data.sources.base import Source
from ssl_jax.data.sources.folder import FolderSource, root_and_part
from ssl_jax.data.splits import choose, top_folders


class FramesSource(Source):
    """Clips: consecutive rows of `files`, of the given `lengths`."""

    def __init__(
        self,
        name: str,
        files: FolderSource,
        clips: list[str],
        lengths: np.ndarray,
        left_out: Mapping[str, int] | None = None,
    ) -> None:
        self.name, self.lengths, self.left_out = name, lengths, left_out or {}
        self.labels, self.class_names = top_folders(clips)
        self._files, self._clips = files, clips
        self.sounded = files.root.name == "frames" and self._sounds.is_dir()
        self._first = np.cumsum(lengths) - lengths
        self._middle = lengths // 2

    def __len__(self) -> int:
        return len(self._clips)

    def read(self, index: int) -> bytes:
        return self.read_frame(index, int(self._middle[index]))

    def read_frame(self, index: int, frame: int) -> bytes:
        return self._files.read(int(self._first[index]) + frame)

    @property
    def _sounds(self) -> Path:
        return self._files.root.parent / "audio"

    def read_sound(self, index: int) -> Path:
        return self._sounds / f"{self._clips[index]}.wav"

    def describe(self, index: int) -> str:
        return str(Path(self._files.describe(int(self._first[index]))).parent)

    def layout(self) -> str:
        """Digest the relative paths and file sizes."""
        return self._files.layout()

    def content(self) -> Iterator[bytes]:
        yield from super().content()
        yield from self._files.content()


def load(path: str, split: str) -> FramesSource:
    """Open the clips at or below `path`: folders with images, whose frames are sorted by name with
    numbers compared as numbers (9.jpg before 10.jpg).

    A clip's label is the name of its top-level folder, and held-out clips in `val/` are not used
    for training, as for images in `folder:`. If the folder is called frames and a folder audio lies
    beside it, audio/CLIP.wav is the sound of the clip frames/CLIP.

    Raises:
      UserError: no such folder or part, or no image in it.
    """
    root, part = root_and_part(path)
    if not path or not root.is_dir():
        raise UserError(f"frames:{path}: no such folder")
    listing = image_files(str(root), f"frames:{path}")
    groups = [(c, list(g)) for c, g in groupby(sorted(listing.paths, key=_order), _folder)]
    chosen = choose([clip for clip, _ in groups], part, split)
    groups = [groups[i] for i in chosen.rows]
    if not groups:
        raise UserError(f"frames:{path}: no image in {root}/{part}")
    lengths = np.array([len(frames) for _, frames in groups], np.int32)
    name = f"frames:{path}" + (f"#{chosen.part}" if chosen.part else "")
    files = FolderSource(name, root, [frame for _, frames in groups for frame in frames])
    left_out = {f"clips {why}": n for why, n in chosen.left_out.items()}
    left_out |= count_other_files(listing.others)
    return FramesSource(name, files, [clip for clip, _ in groups], lengths, left_out)


def held_out(path: str) -> FramesSource | None:
    """Open the clips of the validation or test folder beside training folders."""
    root, part = root_and_part(path)
    if part or not root.is_dir():
        return None
    held = load(path, "eval")
    return held if held.name != f"frames:{path}" else None


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _order(path: str) -> tuple:
    parts = re.split(r"(\d+)", path.rpartition("/")[2])
    return _folder(path), [int(p) if i % 2 else p for i, p in enumerate(parts)], path
