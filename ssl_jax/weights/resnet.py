"""Residual networks by torchvision's and timm's names."""

from collections.abc import Mapping
from typing import Any

from ssl_jax.core.errors import UserError
from ssl_jax.nets.backbones.resnet import DEPTHS
from ssl_jax.weights.places import Arrays, Layout, Place, layers

FIRST = "conv1.weight"  # the tensor whose second axis is the channels
LEAVES: Mapping[str, tuple[str, Layout]] = {
    "kernel": ("weight", "conv"),
    "scale": ("weight", "same"),
    "bias": ("bias", "same"),
    "mean": ("running_mean", "same"),
    "var": ("running_var", "same"),
}


def place(path: str, shape: tuple[int, ...] = ()) -> Place:
    """Return the place of a path below the backbone, "stage1/0/layers/1/norm/scale".

    Raises:
      UserError: torchvision and timm have no name for it: selective kernels, a neck.
    """
    leaf, layout = LEAVES[path.split("/")[-1]]
    match path.split("/")[:-1]:
        case ["stem", "0", part]:
            module = "conv1" if part == "conv" else "bn1"
        case [stage, block, "layers", i, part]:
            kind = "conv" if part == "conv" else "bn"
            module = f"layer{stage.removeprefix('stage')}.{block}.{kind}{int(i) + 1}"
        case [stage, block, "shortcut", part]:
            at = 0 if part == "conv" else 1
            module = f"layer{stage.removeprefix('stage')}.{block}.downsample.{at}"
        case _:
            raise UserError(
                f"{path}: timm has no names for selective kernels, deep stems and necks"
            )
    return Place((f"{module}.{leaf}",), layout)


def infer(tensors: Arrays, options: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Infer the section `backbone` and the number of channels from names and shapes; `options` are
    the known keys of that section.

    What shapes do not show has its usual value: stride 2 in a bottleneck's 3x3.

    Raises:
      UserError: a residual network that ours has no settings for.
    """
    del options
    each = (layers(tensors, f"layer{stage}.") for stage in (1, 2, 3, 4))
    stages = tuple(count for count in each if count)
    block = "bottleneck" if "layer1.0.conv3.weight" in tensors else "basic"
    depth = next((d for d, kind in DEPTHS.items() if kind == (block, stages)), None)
    if depth is None:
        raise UserError(f"unsupported ResNet with {block} blocks {stages}")
    filters, channels, kernel, _ = tensors["conv1.weight"].shape
    stem = "imagenet" if kernel == 7 else "small" if depth == 8 else "cifar"
    inner = tensors[f"layer1.0.conv{2 if block == 'bottleneck' else 1}.weight"].shape[0]
    if inner != filters:
        raise UserError(f"unsupported ResNet: the stem has {filters} filters, its blocks {inner}")
    section: dict[str, Any] = {"name": "resnet", "depth": depth, "stem": stem}
    return section | ({"num_filters": filters} if filters != 64 else {}), channels
