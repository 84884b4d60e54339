"""Weights in several files, and settings beside them, as the Hugging Face hub stores models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_jax.core.errors import UserError
from ssl_jax.core.plain import from_json

INDEX = ".index.json"  # suffix of an index: a list of tensors and their files
USUAL = (  # usual names in a folder, the preferred ones first
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin",
)
ENDINGS = (".safetensors", ".npz", ".pth", ".pt", ".bin", ".ckpt")
# Kind -> file of settings beside the weights, and keys of which at least one identifies it.
BESIDE: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "config": ("config.json", ("architectures", "model_type", "architecture", "hidden_size")),
    "open_clip": ("open_clip_config.json", ("model_cfg",)),
    "preprocessor": ("preprocessor_config.json", ("image_mean", "size", "crop_size")),
}
LARGEST = 2**26  # bytes that are read of such a file


def weights_in(path: Path) -> Path:
    """Return the file of weights, or the index of several, that a path stands for: the path itself,
    or a file in that folder.

    Raises:
      UserError: no such file in the folder, or several of which none has a usual name.
    """
    if not path.is_dir():
        return path
    try:
        names = sorted(p.name for p in path.iterdir() if p.is_file())
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from None
    for name in USUAL:
        if name in names:
            return path / name
    candidates = [name for name in names if name.endswith(INDEX)]
    candidates = candidates or [name for name in names if name.endswith(ENDINGS)]
    if len(candidates) > 1:
        raise UserError(
            f"{path} holds several files of weights; choose one, for example {candidates[0]}"
        )
    if not candidates:
        endings = ", *".join(ENDINGS)
        raise UserError(
            f"{path} holds neither a run (config.json, checkpoints/), nor an export of "
            f"--format=orbax, nor weights ({', '.join(USUAL[:2])}, *{endings})"
        )
    return path / candidates[0]


def parts(index: Path) -> dict[Path, list[str]]:
    """Read an index of Hugging Face's: file -> names of its tensors.

    Raises:
      UserError: it cannot be read, is not an index, or lists files in other folders.
    """
    files: dict[Path, list[str]] = {}
    places = _object(index).get("weight_map")
    if not isinstance(places, Mapping) or not places:
        raise UserError(f"{index} is not an index of weights: it has no weight_map")
    for name, file in places.items():
        if not isinstance(file, str) or Path(file).name != file or file.endswith(INDEX):
            raise UserError(f"{index}: {name} is in {file!r}; expected a file in the same folder")
        files.setdefault(index.parent / file, []).append(name)
    for file in files:
        if not file.is_file():
            raise UserError(f"{index} lists {file.name}, but there is no such file beside it")
    return files


def beside(path: Path) -> dict[str, dict[str, Any]]:
    """Read the settings in the usual files beside a file of weights, by kind: "config"
    (transformers' or timm's), "open_clip", "preprocessor". Other files with these names, such as
    the config.json of a run of ours, are ignored.

    Raises:
      UserError: one of them cannot be read.
    """
    out = {}
    for kind, (name, keys) in BESIDE.items():
        if (path.parent / name).is_file():
            settings = _object(path.parent / name)
            if any(key in settings for key in keys):
                out[kind] = settings
    return out


def _object(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file."""
    try:
        with path.open("rb") as file:
            content = from_json(file.read(LARGEST))
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from None
    except ValueError as e:
        raise UserError(f"cannot read {path}: {e}") from None
    if not isinstance(content, dict):
        raise UserError(f"cannot read {path}: expected a JSON object")
    return content
