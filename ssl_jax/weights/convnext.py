"""ConvNeXt by timm's names; the names of its authors, of torchvision and of transformers."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.nets.backbones.convnext import SIZES
from ssl_jax.weights.places import Arrays, Layout, Place, layers

FIRST = "stem.0.weight"  # the tensor whose second axis is the channels
LEAVES: Mapping[str, tuple[str, Layout]] = {
    "conv/kernel": ("conv_dw.weight", "conv"),
    "conv/bias": ("conv_dw.bias", "same"),
    "norm/scale": ("norm.weight", "same"),
    "norm/bias": ("norm.bias", "same"),
    "fc1/kernel": ("mlp.fc1.weight", "linear"),
    "fc1/bias": ("mlp.fc1.bias", "same"),
    "grn/scale": ("mlp.grn.weight", "same"),
    "grn/bias": ("mlp.grn.bias", "same"),
    "fc2/kernel": ("mlp.fc2.weight", "linear"),
    "fc2/bias": ("mlp.fc2.bias", "same"),
    "gamma": ("gamma", "same"),
}
ENDS: Mapping[str, tuple[str, Layout]] = {
    "stem/conv/kernel": (FIRST, "conv"),
    "stem/conv/bias": ("stem.0.bias", "same"),
    "stem/norm/scale": ("stem.1.weight", "same"),
    "stem/norm/bias": ("stem.1.bias", "same"),
    "norm/scale": ("head.norm.weight", "same"),
    "norm/bias": ("head.norm.bias", "same"),
}
HALVING: Mapping[str, tuple[str, Layout]] = {
    "norm/scale": ("0.weight", "same"),
    "norm/bias": ("0.bias", "same"),
    "conv/kernel": ("1.weight", "conv"),
    "conv/bias": ("1.bias", "same"),
}


def place(path: str, shape: tuple[int, ...] = ()) -> Place:
    """Return the place of a path below the backbone, "stage1/blocks/0/conv/kernel"."""
    if path in ENDS:
        name, layout = ENDS[path]
        return Place((name,), layout)
    stage, part, rest = path.split("/", 2)
    start = f"stages.{int(stage.removeprefix('stage')) - 1}"
    if part == "halving":
        name, layout = HALVING[rest]
        return Place((f"{start}.downsample.{name}",), layout)
    number, leaf = rest.split("/", 1)
    name, layout = LEAVES[leaf]
    return Place((f"{start}.blocks.{number}.{name}",), layout)


def infer(tensors: Arrays, options: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Infer the section `backbone` and the number of channels from names and shapes; `options` are
    the known keys of that section.

    Raises:
      UserError: a first convolution that is not square.
    """
    del options
    _, channels, patch, width = tensors[FIRST].shape
    if patch != width:
        raise UserError(f"unsupported ConvNeXt with a first convolution of {patch} x {width}")
    stages = range(layers(tensors, "stages."))
    depths = tuple(layers(tensors, f"stages.{s}.blocks.") for s in stages)
    dims = tuple(len(tensors[f"stages.{s}.blocks.0.conv_dw.weight"]) for s in stages)
    size = next((name for name, value in SIZES.items() if value == (depths, dims)), None)
    section: dict[str, Any] = {"name": "convnext", "size": size}
    section |= {} if size else {"depths": depths, "dims": dims}
    section |= {} if patch == 4 else {"patch": patch}
    section |= {"grn": True} if "stages.0.blocks.0.mlp.grn.weight" in tensors else {}
    return section, channels


def from_timm(tensors: Arrays) -> dict[str, np.ndarray]:
    """Read the 1x1 convolutions of timm's smallest networks as the linear layers that they are."""
    return {
        name: array.reshape(array.shape[:2])
        if ".mlp.fc" in name and array.shape[2:] == (1, 1)
        else array
        for name, array in tensors.items()
    }


def from_authors(tensors: Arrays) -> dict[str, np.ndarray]:
    """Rename the tensors of facebookresearch/ConvNeXt and ConvNeXt-V2 to timm's names."""
    out = _renamed(tensors, AUTHORS)
    return {k: np.ravel(v) if ".grn." in k else v for k, v in out.items()}


def from_torchvision(tensors: Arrays) -> dict[str, np.ndarray]:
    """Rename the tensors of torchvision's ConvNeXt to timm's names."""
    out = _renamed(tensors, TORCHVISION)
    return {k: np.ravel(v) if k.endswith(".gamma") else v for k, v in out.items()}


def from_transformers(tensors: Arrays) -> dict[str, np.ndarray]:
    """Rename the tensors of ConvNextModel and ConvNextV2Model to timm's names."""
    out = _renamed(tensors, TRANSFORMERS)
    return {k: np.ravel(v) if ".grn." in k else v for k, v in out.items()}


Replacement = str | Callable[[re.Match[str]], str]
Renames = tuple[tuple[str, Replacement], ...]  # pattern -> replacement, all in this order


def _renamed(tensors: Arrays, renames: Renames) -> dict[str, np.ndarray]:
    out = {}
    for name, array in tensors.items():
        for pattern, replacement in renames:
            name = re.sub(f"^{pattern}", replacement, name)
        out[name] = array
    return out


AUTHORS: Renames = (
    (r"downsample_layers\.0\.", "stem."),
    (r"downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
    (r"stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"(.*)\.dwconv\.", r"\1.conv_dw."),
    (r"(.*)\.pwconv([12])\.", r"\1.mlp.fc\2."),
    (r"(.*)\.grn\.gamma", r"\1.mlp.grn.weight"),
    (r"(.*)\.grn\.beta", r"\1.mlp.grn.bias"),
    (r"norm\.", "head.norm."),
)
TORCHVISION: Renames = (
    (r"features\.0\.([01])\.", r"stem.\1."),
    (r"features\.(\d+)\.([01])\.(weight|bias)$", lambda m: f"{_stage(m)}downsample.{m[2]}.{m[3]}"),
    (r"features\.(\d+)\.(\d+)\.", lambda m: f"{_stage(m)}blocks.{m[2]}."),
    (r"(.*)\.layer_scale$", r"\1.gamma"),
    (r"(.*)\.block\.0\.", r"\1.conv_dw."),
    (r"(.*)\.block\.2\.", r"\1.norm."),
    (r"(.*)\.block\.3\.", r"\1.mlp.fc1."),
    (r"(.*)\.block\.5\.", r"\1.mlp.fc2."),
    (r"classifier\.0\.", "head.norm."),
)
TRANSFORMERS: Renames = (
    (r"embeddings\.patch_embeddings\.", "stem.0."),
    (r"embeddings\.layernorm\.", "stem.1."),
    (r"encoder\.stages\.(\d+)\.downsampling_layer\.", r"stages.\1.downsample."),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"(.*)\.dwconv\.", r"\1.conv_dw."),
    (r"(.*)\.layernorm\.", r"\1.norm."),
    (r"(.*)\.pwconv([12])\.", r"\1.mlp.fc\2."),
    (r"(.*)\.grn\.", r"\1.mlp.grn."),
    (r"(.*)\.layer_scale_parameter$", r"\1.gamma"),
    (r"layernorm\.", "head.norm."),
)


def _stage(match: re.Match[str]) -> str:
    """Return the prefix of a stage: odd numbers are stages, even ones halve before the next."""
    return f"stages.{int(match[1]) // 2}."
