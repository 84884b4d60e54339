"""EfficientNet by timm's names, and the names of torchvision."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.nets.backbones.efficientnet import SIZES, TABLE, Config
from ssl_jax.weights.places import Arrays, Place, layers

FIRST = "conv_stem.weight"  # the tensor whose second axis is the channels
NORM: Mapping[str, str] = {
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
ENDS = {"stem": ("conv_stem", "bn1"), "head": ("conv_head", "bn2")}
# Our layers in a block -> timm's convolution and norm; the first stage's blocks do not widen.
WIDENING = {"expand": ("conv_pw", "bn1"), "depthwise": ("conv_dw", "bn2")}
WIDENING |= {"project": ("conv_pwl", "bn3")}
PLAIN = {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")}
TENSORFLOW = {"padding": "same", "norm_eps": 1e-3}  # timm: the networks named "tf_..."


def place(path: str, shape: tuple[int, ...] = ()) -> Place:
    """Return the place of a path below the backbone, "stage1/0/depthwise/conv/kernel"."""
    module, *inner, leaf = path.split("/")
    if module in ENDS:
        start, names = "", ENDS[module]
    else:
        stage = int(module.removeprefix("stage")) - 1
        number, layer = inner[:2]
        start = f"blocks.{stage}.{number}."
        if layer == "excite":
            name, layout = ("weight", "conv") if leaf == "kernel" else ("bias", "same")
            return Place((f"{start}se.conv_{inner[2]}.{name}",), layout)  # type: ignore[arg-type]
        names = (WIDENING if TABLE[stage].expansion > 1 else PLAIN)[layer]
    if inner[-1] == "conv":
        return Place((f"{start}{names[0]}.weight",), "conv")
    return Place((f"{start}{names[1]}.{NORM[leaf]}",))


def infer(tensors: Arrays, options: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Infer the section `backbone` and the number of channels from names and shapes; `options` are
    the known keys of that section.

    What shapes do not show has its usual value: a stem of stride 2, and PyTorch's padding and
    epsilon.

    Raises:
      UserError: more stages than an EfficientNet has.
    """
    stem_width, channels, _, _ = tensors[FIRST].shape
    stages = range(layers(tensors, "blocks."))
    if len(stages) > len(TABLE):
        raise UserError(f"unsupported EfficientNet of {len(stages)} stages")
    depths = tuple(layers(tensors, f"blocks.{s}.") for s in stages)
    last = lambda s: "conv_pwl" if TABLE[s].expansion > 1 else "conv_pw"  # noqa: E731
    widths = tuple(len(tensors[f"blocks.{s}.0.{last(s)}.weight"]) for s in stages)
    own = (depths, widths, stem_width, len(tensors["conv_head.weight"]))
    size = next((name for name in SIZES if Config(name).sizes == own), None)
    section: dict[str, Any] = {"name": "efficientnet", "size": size}
    names = ("depths", "widths", "stem_width", "head_width")
    return section | ({} if size else dict(zip(names, own, strict=True))), channels


def from_torchvision(tensors: Arrays) -> dict[str, np.ndarray]:
    """Rename the tensors of torchvision's EfficientNet to timm's names."""
    out = {}
    for name, array in tensors.items():
        match = re.fullmatch(r"features\.(\d+)\.(?:(\d+)\.block\.)?(.*)", name)
        out[_to_timm(match) if match else name] = array
    return out


def _to_timm(match: re.Match[str]) -> str:
    number, block, rest = int(match[1]), match[2], match[3]
    if block is None:
        conv, norm = ENDS["head" if number else "stem"]
        layer, _, leaf = rest.partition(".")
        return f"{conv if layer == '0' else norm}.{leaf}"
    stage = min(number, len(TABLE)) - 1
    each = list((WIDENING if TABLE[stage].expansion > 1 else PLAIN).values())
    layer, _, leaf = rest.partition(".")
    start, position = f"blocks.{number - 1}.{block}.", int(layer)
    excite = len(each) - 1  # before the last convolution
    if position == excite:
        part, _, kind = leaf.partition(".")
        return f"{start}se.conv_{'reduce' if part == 'fc1' else 'expand'}.{kind}"
    conv, norm = each[position if position < excite else position - 1]
    part, _, kind = leaf.partition(".")
    return f"{start}{conv if part == '0' else norm}.{kind}"
