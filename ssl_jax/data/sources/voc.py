"""`voc:ROOT`: PASCAL VOC's folders; an image has the classes of its objects as labels.

`voc:ROOT#val` is a part, a file of `ImageSets/Main`.
"""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from ssl_jax.core.errors import UserError
from ssl_jax.data.fragments import split_fragment
from ssl_jax.data.label_sets import LabelSets
from ssl_jax.data.sources.folder import FolderSource, lies_in

CLASSES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike "
    "person pottedplant sheep sofa train tvmonitor"
)
# For training, and for evaluation: the first that exist. VOC 2012 has no public test set.
PARTS = {"train": ("trainval", "train"), "eval": ("test", "val")}


def load(path: str, split: str) -> FolderSource:
    """Open the images that `ImageSets/Main/PART.txt` lists, in its order.

    PART is `trainval`, and `test` for evaluation; without a test part `train` and `val`. As in the
    files that VOC 2007 gives per class, an image shows the classes of its objects that are not
    difficult, and whether it shows one with difficult objects only is not known.

    Raises:
      UserError: no such folder or part, or a file of annotations that cannot be read.
    """
    root, part, _ = split_fragment("voc", path, ())
    lists = root / "ImageSets" / "Main"
    there = {file.stem for file in lists.glob("*.txt")}
    if not there:
        raise UserError(f"voc:{path}: expected a folder with ImageSets/Main/PART.txt")
    part = part or _part(there, split)
    if part not in there:
        known = ", ".join(sorted(name for name in there if "_" not in name))
        raise UserError(f"voc:{path}: no part {part!r}; it has {known}")
    name = f"voc:{path}" + ("" if "#" in path else f"#{part}")
    rows = [line.split() for line in (lists / f"{part}.txt").read_text("utf-8-sig").splitlines()]
    stems = [row[0] for row in rows if row]
    if not stems:
        raise UserError(f"{name}: the part is empty")
    folder = root / "JPEGImages"
    paths = [f"{stem}.jpg" for stem in stems]
    if outside := next((p for p in paths if not lies_in(p, str(folder.absolute()))), None):
        raise UserError(f"{name}: {outside[:80]!r} leads out of {folder}, the folder of images")
    if not (folder / paths[0]).is_file():
        raise UserError(f"{name}: no file {folder / paths[0]}")
    shown, unsure = zip(
        *(_objects(name, root / "Annotations" / f"{stem}.xml") for stem in stems), strict=True
    )
    every = set().union(*shown, *unsure)
    classes = tuple(CLASSES.split()) if every <= set(CLASSES.split()) else tuple(sorted(every))
    number = {text: i for i, text in enumerate(classes)}
    sets, open_ = (
        LabelSets.of([[number[c] for c in each] for each in some]) for some in (shown, unsure)
    )
    source = FolderSource(name, folder, paths, None, classes, label_sets=sets)
    source.unsure = open_ if open_.most else None
    return source


def held_out(path: str) -> FolderSource | None:
    """Open the test part, or the validation part where `train` is trained on."""
    root, part, _ = split_fragment("voc", path, ())
    there = {file.stem for file in (root / "ImageSets" / "Main").glob("*.txt")}
    if part or not there or _part(there, "train") == _part(there, "eval"):
        return None
    return load(path, "eval")


def _part(there: set[str], split: str) -> str:
    """Return the part for training or evaluation: never two that share images."""
    if "test" not in there and {"train", "val"} <= there:
        return "train" if split == "train" else "val"
    return next((part for part in PARTS[split] if part in there), sorted(there)[0])


def _objects(name: str, file: Path) -> tuple[set[str], set[str]]:
    """Return the classes that are shown, and those of difficult objects only."""
    objects = entries(name, file)
    shown = {name_of(entry) for entry in objects if not is_difficult(entry)}
    return shown, {name_of(entry) for entry in objects} - shown


def entries(name: str, file: Path) -> list[ElementTree.Element]:
    """Return the objects in a file of annotations, of the data set `name`.

    Raises:
      UserError: it cannot be read.
    """
    try:
        return list(ElementTree.parse(file).getroot().iter("object"))
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as e:
        reason = getattr(e, "strerror", None) or e
        raise UserError(f"{name}: {file} holds no annotations in VOC's format ({reason})") from None


def name_of(entry: ElementTree.Element) -> str:
    """Return the class of an object."""
    return str(entry.findtext("name")).strip()


def is_difficult(entry: ElementTree.Element) -> bool:
    """Return whether an object is marked as difficult."""
    return (entry.findtext("difficult") or "0").strip() == "1"
