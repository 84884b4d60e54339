"""`tfds:NAME[/CONFIG][:SPLIT]`, `tfds:/path/to/NAME/VERSION[:SPLIT]`: TensorFlow Datasets.

Only data sets that are prepared as ArrayRecord files can be read; TensorFlow is not needed.
"""

import re
from pathlib import Path
from typing import Any

from ssl_jax.core.errors import UserError
from ssl_jax.core.plain import from_json
from ssl_jax.data import files
from ssl_jax.data.sources.array_record import RecordSource

EVAL_SPLITS = ("test", "validation")
_OWN = "tensorflow_datasets.core.features."
_PATH = re.compile(r"(.*?)(?::([A-Za-z_]\w*(?:\[[^\]/]*\])?))?", re.DOTALL)


def load(path: str, split: str) -> RecordSource:
    """Open the split that `path` names, else `train`, or for evaluation `test` or `validation`.

    Splits have the syntax of TFDS: `train`, `train[:90%]`.

    Raises:
      UserError: a data set that is unknown, not prepared, of another file format, without such a
        split, or without images.
    """
    name, split_name = _parse(path)
    builder = _builder(path, name)
    splits = list(builder.info.splits)
    if not split_name:
        names = ("train",) if split == "train" else EVAL_SPLITS
        split_name = next((s for s in names if s in splits), "")
    if not split_name or re.split(r"\W", split_name)[0] not in splits:
        raise UserError(
            f"tfds:{path}: no split {split_name or ' or '.join(names)}; it has {', '.join(splits)}"
        )
    return _open(f"tfds:{path}", builder, split_name)


def held_out(path: str) -> RecordSource | None:
    """Open the `test` or `validation` split; None if there is none, or `path` names it."""
    name, split_name = _parse(path)
    splits = _builder(path, name).info.splits
    held = next((s for s in EVAL_SPLITS if s in splits), None)
    if held is None or split_name.startswith(held):
        return None
    return load(f"{name}:{held}", "eval")


def absolute(path: str) -> str:
    """Make the folder of a version absolute; a name stays as it is."""
    name, split_name = _parse(path)
    here = name.startswith(("/", "~", ".")) or (Path(name) / "dataset_info.json").is_file()
    return files.absolute(name) + (f":{split_name}" if split_name else "") if here else path


def _parse(path: str) -> tuple[str, str]:
    match = _PATH.fullmatch(path)
    assert match is not None  # it matches anything
    return match[1], match[2] or ""


def _builder(path: str, name: str) -> Any:
    import tensorflow_datasets as tfds  # takes a second to import

    if not name:
        raise UserError("tfds: expected a data set, tfds:NAME, or its folder, tfds:/path")
    if re.search(r":(?!\d|//)", name):
        raise UserError(
            f"tfds:{path}: data sets in a namespace are not read; their code would be downloaded"
        )
    folder = Path(name).expanduser()
    here = (folder / "dataset_info.json").is_file()
    if name.startswith(("/", "~", ".")) and not here:
        raise UserError(
            f"tfds:{path}: no dataset_info.json in it; expected the folder of a version, such as "
            f"{folder / '1.0.0'}"
        )
    if here:
        _check_kinds(f"tfds:{path}", folder / "features.json")
    try:
        if files.is_remote(name):
            builder = tfds.builder_from_directory(name)
        elif here:
            builder = tfds.builder_from_directory(folder)
        else:
            builder = tfds.builder(name)
    except Exception as e:  # TFDS raises many types, with many lines
        line = str(e).strip().partition("\n")[0]
        raise UserError(f"tfds:{path}: {line or type(e).__name__}") from None
    if not builder.info.splits:
        raise UserError(
            f"tfds:{path}: not prepared in {builder.data_dir}; where TensorFlow is installed, run "
            f"python -c \"import tensorflow_datasets as t; t.data_source('{name}')\""
        )
    formats = sorted(f.value for f in builder.info.available_file_formats())
    if "array_record" not in formats:
        raise UserError(
            f"tfds:{path}: {builder.data_dir} holds {', '.join(formats)} files; expected "
            "array_record: prepare it again with file_format='array_record'"
        )
    return builder


def _check_kinds(name: str, file: Path) -> None:
    """Raise `UserError` unless all features are TFDS' own: TFDS would import any module that is
    named there.
    """
    try:
        todo = [from_json(file.read_text())]
    except (OSError, ValueError):
        return  # TFDS reports the error
    while todo:
        node = todo.pop()
        todo += node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        for key in ("pythonClassName", "python_class_name", "type"):
            kind = node.get(key) if isinstance(node, dict) else None
            if isinstance(kind, str) and "." in kind and not kind.startswith(_OWN):
                raise UserError(f"{name}: {file} asks for the code of {kind}, not TFDS' own")


def _open(name: str, builder: Any, split: str) -> RecordSource:
    import tensorflow_datasets as tfds

    features = builder.info.features
    images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
    if not images:
        raise UserError(f"{name}: no feature is an image; it has {', '.join(features)}")
    label = dict(features.items()).get("label")
    names = label.names if isinstance(label, tfds.features.ClassLabel) else None
    try:
        part = builder.info.splits[split]
        records = builder.as_data_source(
            split,
            deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
            file_format="array_record",
        )
        shards = [(str(f), f.stat().length, f.stat().mtime) for f in part.filepaths]
    except Exception as e:
        line = str(e).strip().partition("\n")[0]
        raise UserError(f"{name}: cannot be read ({line or type(e).__name__})") from None
    what = f"{builder.info.full_name} {split}"
    return RecordSource(name, records, shards, what, names or (), ("image", *images))
