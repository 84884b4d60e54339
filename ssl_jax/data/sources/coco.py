"""`coco:ROOT`: images with annotations in COCO's JSON format; an image has the categories of its
objects as labels.

`coco:ROOT#val2017` is the part of one file of annotations, `coco:FILE.json` a file by name;
`#label=supercategory` takes the supercategories as classes, `#images=FOLDER` the images of another
folder, relative to that of the file.
"""

from pathlib import Path
from typing import Any, Literal

from ssl_jax.core.errors import UserError
from ssl_jax.core.plain import from_json
from ssl_jax.data.fragments import split_fragment
from ssl_jax.data.label_sets import LabelSets
from ssl_jax.data.sources.folder import FolderSource, lies_in
from ssl_jax.data.splits import choose_files

PREFIX = "instances_"


def load(path: str, split: Literal["train", "eval"]) -> FolderSource:
    """Open the images of a file of annotations in the order of the file.

    ROOT holds `annotations/instances_PART.json`; `train` and `val` files of it are the training
    and the held-out part, as files of tables are (`splits.choose_files`). The images lie in the
    first of ROOT/PART, ROOT/images/PART, ROOT/images and ROOT that has the first of them. All
    objects count, also crowds. An image without an object shows no class.

    Raises:
      UserError: no such file or part, several files that no part distinguishes, or a file of
        another format.
    """
    file, keys = _file(path, split)
    name = f"coco:{path}" + (f" ({file.name})" if file != Path(path).expanduser() else "")
    try:
        content = from_json(file.read_text("utf-8-sig"))
        by_supercategory = keys.get("label") == "supercategory"
        kind = "supercategory" if by_supercategory else "name"
        category = {c["id"]: str(c[kind]) for c in content["categories"]}
        names = {image["id"]: str(image["file_name"]) for image in content["images"]}
        row = {key: number for number, key in enumerate(names)}
        pairs = [(row[a["image_id"]], category[a["category_id"]]) for a in content["annotations"]]
    except (OSError, ValueError, KeyError, TypeError) as e:
        reason = getattr(e, "strerror", None) or f"{type(e).__name__} {e}"
        raise UserError(
            f"{name}: {file} holds no annotations in COCO's format, categories, images and "
            f"annotations that name them ({reason})"
        ) from None
    if not names:
        raise UserError(f"{name}: {file} lists no image")
    classes = tuple(dict.fromkeys(category.values()))
    number = {text: i for i, text in enumerate(classes)}
    paths = list(names.values())
    root = _folder(name, file, keys, paths)
    sets: list[set[int]] = [set() for _ in paths]
    for place, text in pairs:
        sets[place].add(number[text])
    return FolderSource(name, root, paths, None, classes, label_sets=LabelSets.of(sets))


def annotations(path: str, split: Literal["train", "eval"]) -> tuple[dict[str, Any], str]:
    """Read the file of annotations that `load` opens; return its content and the key of a category
    that holds the class, "name" or "supercategory".
    """
    file, keys = _file(path, split)
    return from_json(file.read_text("utf-8-sig")), keys.get("label", "name")


def held_out(path: str) -> FolderSource | None:
    """Open the validation part of a folder that also has training annotations."""
    file, part, _ = split_fragment("coco", path, ("label", "images"))
    if part or file.is_file():
        return None
    held = load(path, "eval")
    return held if held.name != load_name(path) else None


def load_name(path: str) -> str:
    """Return the name of the training part."""
    file, _ = _file(path, "train")
    return f"coco:{path} ({file.name})"


def _file(path: str, split: str) -> tuple[Path, dict[str, Any]]:
    """Return the file of annotations, and the fragment's keys."""
    root, part, keys = split_fragment("coco", path, ("label", "images"))
    if keys.get("label", "supercategory") not in ("supercategory", "name"):
        raise UserError(
            f"coco:{path}: expected label=name or label=supercategory, got {keys['label']!r}"
        )
    if root.is_file():
        if part:
            raise UserError(f"coco:{path}: {root} is one file; leave out {part!r} after '#'")
        return root, keys
    files = sorted((root / "annotations").glob(f"{PREFIX}*.json"))
    if not files:
        raise UserError(f"coco:{path}: expected {root}/annotations/{PREFIX}PART.json, or a file")
    of = {file.stem.removeprefix(PREFIX): file for file in files}
    if part:
        if part not in of:
            raise UserError(f"coco:{path}: no part {part!r}; it has {', '.join(of)}")
        return of[part], keys
    chosen, _, _ = choose_files(list(of), split)
    if len(chosen) != 1:
        raise UserError(f"coco:{path}: several parts, {', '.join(of)}; name one after '#'")
    return of[chosen[0]], keys


def _folder(name: str, file: Path, keys: dict[str, Any], paths: list[str]) -> Path:
    """Return the folder that holds the images.

    Raises:
      UserError: none does, or a path leads out of it.
    """
    root = file.parent.parent if file.parent.name == "annotations" else file.parent
    part = file.stem.removeprefix(PREFIX)
    folders = [root / part, root / "images" / part, root / "images", root]
    if "images" in keys:
        folders = [file.parent / keys["images"]]
    folder = next((f for f in folders if (f / paths[0]).is_file()), None)
    if folder is None:
        looked = " or ".join(map(str, folders))
        raise UserError(f"{name}: no image {paths[0]} in {looked}; name it with #images=FOLDER")
    inside = str(folder.absolute())
    if outside := next((p for p in paths if not lies_in(p, inside)), None):
        raise UserError(f"{name}: {outside[:80]!r} leads out of {folder}, the folder of images")
    return folder
