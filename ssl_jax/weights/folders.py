"""Weights in several files, and what lies beside them, as the Hugging Face hub stores models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_jax.core.errors import UserError
from ssl_jax.core.plain import from_json

INDEX = ".index.json"  # the end of the name of a list of tensors and their files
USUAL = (  # names in a folder, the preferred first
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin",
)
ENDINGS = (".safetensors", ".npz", ".pth", ".pt", ".bin", ".ckpt")
# Kind -> file of settings beside the weights, and keys of which one tells it from others' files.
BESIDE: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "config": ("config.json", ("architectures", "model_type", "architecture", "hidden_size")),
    "open_clip": ("open_clip_config.json", ("model_cfg",)),
    "preprocessor": ("preprocessor_config.json", ("image_mean", "size", "crop_size")),
}
LARGEST = 2**26  # bytes of such a file


def weights_in(path: Path) -> Path:
    """The file of weights, or the index of several, that a path names: itself, or one in a folder.

    Raises:
      UserError: there is none, or several of which none has a usual name.
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
    found = [name for name in names if name.endswith(INDEX)]
    found = found or [name for name in names if name.endswith(ENDINGS)]
    if len(found) > 1:
        raise UserError(f"{path} is a folder of several files of weights: name one, {found[0]}")
    if not found:
        endings = ", *".join(ENDINGS)
        raise UserError(
            f"{path} is a folder that holds neither a run (config.json, checkpoints/), nor an "
            f"export of --format=orbax, nor weights ({', '.join(USUAL[:2])}, *{endings})"
        )
    return path / found[0]


def parts(index: Path) -> dict[Path, list[str]]:
    """File -> names of its tensors, as an index of Hugging Face's says.

    Raises:
      UserError: it cannot be read, is no index, or names files elsewhere.
    """
    found: dict[Path, list[str]] = {}
    where = _object(index).get("weight_map")
    if not isinstance(where, Mapping) or not where:
        raise UserError(f"{index} is no index of weights: it holds no weight_map")
    for name, file in where.items():
        if not isinstance(file, str) or Path(file).name != file or file.endswith(INDEX):
            raise UserError(f"{index}: {name} is in {file!r}; expected a file of the same folder")
        found.setdefault(index.parent / file, []).append(name)
    for file in found:
        if not file.is_file():
            raise UserError(f"{index} names {file.name}, and there is no such file beside it")
    return found


def beside(path: Path) -> dict[str, dict[str, Any]]:
    """Settings in the usual files beside a file of weights, by kind: "config" (transformers' or
    timm's), "open_clip", "preprocessor". Files of these names that are something else, as the
    config.json of a run of ours, are left out.

    Raises:
      UserError: one of them cannot be read.
    """
    found = {}
    for kind, (name, keys) in BESIDE.items():
        if (path.parent / name).is_file():
            settings = _object(path.parent / name)
            if any(key in settings for key in keys):
                found[kind] = settings
    return found


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        with path.open("rb") as file:
            found = from_json(file.read(LARGEST))
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from None
    except ValueError as e:
        raise UserError(f"cannot read {path}: {e}") from None
    if not isinstance(found, dict):
        raise UserError(f"cannot read {path}: it holds no JSON object")
    return found
