"""`folder:/path`: any tree of image files; `folder:/path/list.txt`: the files in a list.

`folder:/path#PART` is the part in one of its folders, `folder:/path#.` the whole tree.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.plain import from_json
from ssl_jax.data import files
from ssl_jax.data.decode import check_size
from ssl_jax.data.label_sets import LabelSets
from ssl_jax.data.labels import number_texts
from ssl_jax.data.listing import EXTENSIONS, count_other_files, image_files
from ssl_jax.data.sources.base import Source
from ssl_jax.data.splits import choose, top_folders
from ssl_jax.data.text import without_halves

CAPTION_FILES = ("captions.jsonl", "metadata.jsonl")
CAPTION_KEYS = ("text", "caption", "captions")
_LINE = re.compile(rf"(.+(?:{'|'.join(map(re.escape, EXTENSIONS))}))(?:[\s,]+(.+))?", re.IGNORECASE)


class FolderSource(Source):
    """Image files at `paths` below `root`.

    Captions are read from the file `captions.jsonl` or `metadata.jsonl` in `root`: one object per
    line, {"file_name": path below `root`, "text": ...}; the text (or `caption`, `captions`) is a
    string or a list of strings, and a file name may occur in several lines.

    If `root` is called images and a folder masks lies beside it, masks/NAME.png is the mask of
    images/NAME.jpg.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        paths: list[str],
        labels: np.ndarray | None = None,
        class_names: tuple[str, ...] = (),
        left_out: Mapping[str, int] | None = None,
        label_sets: LabelSets | None = None,
    ) -> None:
        self.name, self.labels, self.class_names = name, labels, class_names
        self.label_sets = label_sets
        self.left_out = left_out or {}
        self._root = str(root)
        self.masked = root.name == "images" and (root.parent / "masks").is_dir()
        self.names = self._paths = paths  # relative, with "/"

    @cached_property
    def captions(self) -> Sequence[Sequence[str]] | None:  # type: ignore[override]
        file = _caption_file(Path(self._root))
        return None if file is None else _captions(file, self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> bytes:
        with open(self.describe(index), "rb") as file:  # noqa: PTH123 (a third of Path's cost)
            check_size(os.fstat(file.fileno()).st_size)
            return file.read()

    @property
    def root(self) -> Path:
        """Folder that holds the images."""
        return Path(self._root)

    def read_mask(self, index: int) -> Path:
        return self.root.parent / "masks" / Path(self._paths[index]).with_suffix(".png")

    def describe(self, index: int) -> str:
        return os.path.join(self._root, self._paths[index])  # noqa: PTH118

    def layout(self) -> str:
        """Digest the relative paths and file sizes."""
        digest = hashlib.blake2b(digest_size=16)
        for path, size in zip(self._paths, self._sizes, strict=True):
            digest.update(f"{path}\0{size}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def content(self) -> Iterator[bytes]:
        """Yield labels, class names, the file of captions, and a sample of the images' bytes."""
        if self.labels is not None:
            yield self.labels.tobytes()
            yield repr(self.class_names).encode("utf-8", "surrogatepass")
        if self.label_sets is not None:
            yield from self.label_set_content()
            yield repr(self.class_names).encode("utf-8", "surrogatepass")
        if (file := _caption_file(Path(self._root))) is not None:
            yield files.sample([str(file)], [file.stat().st_size])
        yield files.sample([self.describe(i) for i in range(len(self))], self._sizes)

    @cached_property
    def _sizes(self) -> list[int]:
        return [_size(self.describe(i)) for i in range(len(self))]


def load(path: str, split: str) -> FolderSource:
    """Open the images below a folder, sorted by path, or the images in a list.

    Below a folder links are followed, and hidden files and folders are left out. An example's label
    is the name of its top-level sub-folder, if every image lies in one and there are at least two
    of them; otherwise the set has no labels. (`train/cat/1.jpg` is a cat: see
    `splits.top_folders`.)

    If a folder holds training and held-out images, `train/` and `val/`, these are the training
    images, or for evaluation the held-out ones: see `splits.choose`.

    A list has one path per line, relative to the folder of the list and inside of it, optionally
    followed by a label, which is a number or a name.

    Raises:
      UserError: no such folder, part or list, no image in it, or an invalid line.
    """
    root, part = root_and_part(path)
    if path and root.is_file():
        return _from_list(path, root)
    if not path or not root.is_dir():
        raise UserError(f"folder:{path}: no such folder")
    paths, others = image_files(str(root), f"folder:{path}")
    chosen = choose(paths, part, split)
    if not len(chosen.rows):
        raise UserError(f"folder:{path}: no image in {root}/{part}")
    paths = [paths[i] for i in chosen.rows]
    name = f"folder:{path}" + (f"#{chosen.part}" if chosen.part else "")
    expected = (".jsonl",) if _caption_file(root) else ()
    left_out = {f"images {why}": n for why, n in chosen.left_out.items()}
    left_out |= count_other_files(others, expected)
    return FolderSource(name, root, paths, *top_folders(paths), left_out)


def held_out(path: str) -> FolderSource | None:
    """Open the validation or test images of a folder that also holds training images."""
    root, part = root_and_part(path)
    if part or not root.is_dir():
        return None
    held = load(path, "eval")
    return held if held.name != f"folder:{path}" else None


def root_and_part(path: str) -> tuple[Path, str]:
    """Split `ROOT#PART`; a "#" in the name of an existing folder does not separate a part."""
    root = Path(path).expanduser()
    if "#" in path and not root.exists():
        text, _, part = path.rpartition("#")
        return Path(text).expanduser(), part
    return root, ""


def _from_list(path: str, file: Path) -> FolderSource:
    name, paths, labels = f"folder:{path}", [], []
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{name}: neither a folder nor a list of files, one per line") from None
    inside = os.path.abspath(file.parent)  # noqa: PTH100 (Path.resolve would follow links)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise UserError(
                f"{name}: line {number} is {line[:80]!r}; expected IMAGE or IMAGE LABEL"
            )
        if not lies_in(match[1], inside):
            raise UserError(
                f"{name}: line {number}: {match[1][:80]!r} leads out of {file.parent}, the folder "
                "of the list; move the list to a folder that holds all images"
            )
        paths.append(match[1])
        labels.append(match[2] or "")
    if not paths:
        raise UserError(f"{name}: the list is empty")
    if not (file.parent / paths[0]).is_file():
        raise UserError(f"{name}: no file {file.parent / paths[0]}; paths are relative to the list")
    return FolderSource(name, file.parent, paths, *number_texts(labels, name))


def lies_in(path: str, folder: str) -> bool:
    """True if a path relative to the absolute path `folder` stays in it."""
    folder = os.path.normpath(folder)
    whole = os.path.normpath(os.path.join(folder, path))  # noqa: PTH118
    return whole.startswith(os.path.join(folder, ""))  # noqa: PTH118


def _caption_file(root: Path) -> Path | None:
    return next((root / f for f in CAPTION_FILES if (root / f).is_file()), None)


def _captions(file: Path, paths: list[str]) -> list[list[str]]:
    index_of = {p: i for i, p in enumerate(paths)}
    captions: list[list[str]] = [[] for _ in paths]
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{file}: {getattr(e, 'strerror', None) or 'not a text'}") from None
    for number, line in enumerate(lines, 1):
        try:
            entry = from_json(line) if line.strip() else {}
            index = index_of.get(entry.get("file_name", ""))
            value = next((entry[k] for k in CAPTION_KEYS if k in entry), ())
            texts = [value] if isinstance(value, str) else list(map(str, value))
            texts = [without_halves(text) for text in texts]
        except (ValueError, AttributeError, TypeError):
            raise UserError(
                f'{file}: line {number} is not a JSON object {{"file_name": ..., "text": ...}}'
            ) from None
        if index is not None:
            captions[index].extend(texts)
    if not any(captions):
        raise UserError(
            f'{file}: no caption of these images; expected {{"file_name": ..., "text": ...}}'
        )
    return captions


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError:
        return -1
