"""Export of a backbone to timm or torchvision: their names and layouts, and code for the model."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ssl_jax import nets
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import sides
from ssl_jax.nets.backbones.efficientnet import TABLE
from ssl_jax.nets.backbones.resnet import DEPTHS
from ssl_jax.nets.backbones.vit import FIXED_ORDERS, RELATIVE, SIZES, patch_grid
from ssl_jax.nets.positions import sincos
from ssl_jax.weights import torchvision
from ssl_jax.weights.conversion import to_timm
from ssl_jax.weights.places import Arrays

Model = tuple[dict[str, np.ndarray], list[str]]  # state dictionary, lines of Python


def export(variables: Arrays, backbone: Mapping[str, Any], channels: int, library: str) -> Model:
    """Return the state dictionary of a backbone, and the lines of Python that build the module
    `model`, which loads it with `strict=True` and whose output is our "pooled".

    Args:
      variables: by our paths, without "backbone/".
      backbone: the section `backbone` of a config.
      library: "timm" or "torchvision".

    Raises:
      UserError: that library has no such network.
    """
    options = dict(backbone)
    name = str(options.pop("name", nets.DEFAULT))
    config = nets.backbone_config(name, options)
    if not config.layout:
        raise _unsupported(library, f"backbone.name={name!r}")
    if config.sobel:
        raise _unsupported(library, "backbone.sobel=True")
    write = WRITERS[config.layout]
    explicit = dataclasses.asdict(config.explicit()) | {"channels": channels}
    return write(variables, backbone, explicit, library)


def _resnet(
    variables: Arrays, backbone: Mapping[str, Any], options: Mapping[str, Any], library: str
) -> Model:
    for key, unsupported in (
        ("sk_ratio", options["sk_ratio"] > 0),
        ("neck", bool(options["neck"])),
        ("stride_in_1x1", options["stride_in_1x1"]),
    ):
        if unsupported:
            raise _unsupported(library, f"backbone.{key}={options[key]!r}")
    depth, stem, channels = options["depth"], options["stem"], options["channels"]
    filters = options["num_filters"] * options["width"]
    kind, stages = DEPTHS[depth]
    thin = filters != 64 or len(stages) != 4
    name = f"resnet{depth if len(stages) == 4 else 18}"
    if library == "timm":
        arguments = {"num_classes": 0, "in_chans": channels}
        lines = ["import timm, torch.nn as nn"]
        lines += [f"from timm.models.resnet import {BLOCKS[kind]} as Block"] if thin else []
        lines.append(f"model = timm.create_model({name!r}, {_arguments(arguments)})")
    else:
        lines = ["import torch.nn as nn, torchvision"]
        lines += [f"from torchvision.models.resnet import {BLOCKS[kind]} as Block"] if thin else []
        lines += [f"model = torchvision.models.{name}()", "model.fc = nn.Identity()"]
    kernel, stride = {"imagenet": (7, 2), "cifar": (3, 1), "small": (3, 2)}[stem]
    if thin or stem != "imagenet" or (library == "torchvision" and channels != 3):
        sizes = f"{channels}, {filters}, {kernel}, {stride}, {kernel // 2}"
        lines.append(f"model.conv1 = nn.Conv2d({sizes}, bias=False)")
    if stem != "imagenet":
        lines.append("model.maxpool = nn.Identity()")
    if thin:
        lines.append(f"model.bn1 = nn.BatchNorm2d({filters})")
        lines += _stages(kind, stages, filters)
    return _with_counters(to_timm(variables, backbone)), lines


def _with_counters(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Add the number of batches that PyTorch counts in every batch norm."""
    norms = [key for key in tensors if key.endswith("running_mean")]
    names = (norm.replace("running_mean", "num_batches_tracked") for norm in norms)
    return tensors | {name: np.zeros((), np.int64) for name in names}


CONVNEXT_STAGES = 4  # of timm's
BLOCKS = {"basic": "BasicBlock", "bottleneck": "Bottleneck"}  # their names in both libraries


def _stages(kind: str, stages: tuple[int, ...], filters: int) -> list[str]:
    """Return lines that replace a model's stages by blocks of these widths."""
    lines, inputs = [], filters
    for number in range(4):
        if number >= len(stages):
            lines.append(f"model.layer{number + 1} = nn.Identity()")
            continue
        planes, stride = filters * 2**number, 1 if number == 0 else 2
        outputs = planes * (1 if kind == "basic" else 4)
        more = ""
        if stride > 1 or inputs != outputs:
            shortcut = f"nn.Conv2d({inputs}, {outputs}, 1, {stride}, bias=False)"
            more = f", {stride}, nn.Sequential({shortcut}, nn.BatchNorm2d({outputs}))"
        blocks = [f"Block({inputs}, {planes}{more})"]
        blocks += [f"Block({outputs}, {planes})"] * (stages[number] - 1)
        lines.append(f"model.layer{number + 1} = nn.Sequential({', '.join(blocks)})")
        inputs = outputs
    return lines


def _vit(
    variables: Arrays, backbone: Mapping[str, Any], options: Mapping[str, Any], library: str
) -> Model:
    tensors = to_timm(
        {path: array for path, array in variables.items() if path != "mask_token"}, backbone
    )  # neither library has one
    if options["position"] in FIXED_ORDERS:
        grid = patch_grid(sides(options["image_size"]), options["patch"])
        order = FIXED_ORDERS[options["position"]]
        table = sincos(options["dim"], grid, order, options["cls_token"])
        tensors["pos_embed"] = table[None].astype(np.float32)
    usual = 1e-5 if options["pre_norm"] else 1e-6
    if options["norm_eps"] != usual:
        raise _unsupported(library, f"backbone.norm_eps={options['norm_eps']}")
    if library == "torchvision":
        return _torchvision_vit(tensors, options)
    arguments = {
        "img_size": options["image_size"],
        "patch_size": options["patch"],
        "embed_dim": options["dim"],
        "depth": options["depth"],
        "num_heads": options["heads"],
        "mlp_ratio": options["mlp_ratio"],
        "qkv_bias": options["qkv_bias"],
        "init_values": options["layer_scale"],
        "in_chans": options["channels"],
        "num_classes": 0,
        "global_pool": "token" if options["pool"] == "cls" else "avg",
    }
    if options["position"] in RELATIVE:
        return _beit(tensors, options, arguments)
    name = {
        ("gelu", False): "vit_base_patch16_224",
        ("gelu", True): "vit_base_patch16_clip_224",
        ("quick_gelu", True): "vit_base_patch16_clip_quickgelu_224",
        ("swiglu", False): "vit_giant_patch14_dinov2",
    }.get((options["mlp"], options["pre_norm"]))
    if name is None:
        kind = f"backbone.mlp={options['mlp']!r} with pre_norm={options['pre_norm']}"
        raise _unsupported(library, kind)
    sizes = {v: k for k, v in SIZES.items() if k in ("tiny", "small", "base", "large")}
    size = sizes.get(tuple(options[k] for k in ("dim", "depth", "heads", "mlp_ratio")))
    if size and name == "vit_base_patch16_224":
        name = f"vit_{size}_patch16_224"
    if options["mlp"] == "swiglu":
        width = tensors["blocks.0.mlp.fc2.weight"].shape[1]
        arguments["mlp_ratio"] = 2 * width / options["dim"]
    arguments |= {"class_token": options["cls_token"], "fc_norm": options["norm_after_pool"]}
    arguments |= {"reg_tokens": options["registers"], "no_embed_class": options["registers"] > 0}
    if options["registers"] and options["cls_token"]:  # timm's table then lacks the class token
        table = tensors["pos_embed"]
        tensors["cls_token"] = tensors["cls_token"] + table[:, :1]
        tensors["pos_embed"] = table[:, 1:]
    return _after_pool(tensors, options), _created(name, arguments)


def _beit(
    tensors: dict[str, np.ndarray], options: Mapping[str, Any], arguments: dict[str, Any]
) -> Model:
    """Export to timm's BEiT, without a bias of the keys, which changes no output."""
    if not options["cls_token"] or options["mlp"] != "gelu" or options["pre_norm"]:
        raise _unsupported("timm", "relative positions without a class token")
    out = {}
    for name, array in tensors.items():
        if name.endswith("attn.qkv.bias"):
            start = name.removesuffix("qkv.bias")
            out[f"{start}q_bias"], _, out[f"{start}v_bias"] = np.split(array, 3)
        else:
            out[name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2")] = array
    shared = options["position"] == "relative"
    arguments |= {"use_rel_pos_bias": not shared, "use_shared_rel_pos_bias": shared}
    arguments |= {"use_abs_pos_emb": False, "use_fc_norm": options["norm_after_pool"]}
    return _after_pool(out, options), _created("beit_base_patch16_224", arguments)


def _after_pool(
    tensors: dict[str, np.ndarray], options: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    if not options["norm_after_pool"]:
        return tensors
    after = {"norm.weight": "fc_norm.weight", "norm.bias": "fc_norm.bias"}
    return {after.get(name, name): array for name, array in tensors.items()}


def _torchvision_vit(tensors: dict[str, np.ndarray], options: Mapping[str, Any]) -> Model:
    if not isinstance(options["image_size"], int):
        raise _unsupported("torchvision", f"backbone.image_size={options['image_size']}")
    plain = {
        "position": options["position"] if options["position"] in RELATIVE else None,
        "cls_token": False,
        "pool": "avg",
        "qkv_bias": False,
        "pre_norm": True,
        "norm_after_pool": True,
        "mlp": options["mlp"] if options["mlp"] != "gelu" else None,
        "registers": options["registers"] or None,
        "layer_scale": options["layer_scale"] or 0.0,
    }
    for key, without in plain.items():
        if options[key] == without:
            raise _unsupported("torchvision", f"backbone.{key}={options[key]!r}")
    arguments = {
        "image_size": options["image_size"],
        "patch_size": options["patch"],
        "num_layers": options["depth"],
        "num_heads": options["heads"],
        "hidden_dim": options["dim"],
        "mlp_dim": round(options["dim"] * options["mlp_ratio"]),
    }
    lines = [
        "import torch.nn as nn, torchvision",
        f"model = torchvision.models.VisionTransformer({_arguments(arguments)})",
        "model.heads = nn.Identity()",
    ]
    if options["channels"] != 3:
        sizes = f"{options['channels']}, {options['dim']}, {options['patch']}, {options['patch']}"
        lines.append(f"model.conv_proj = nn.Conv2d({sizes})")
    return torchvision.from_timm(tensors), lines


def _swin(
    variables: Arrays, backbone: Mapping[str, Any], options: Mapping[str, Any], library: str
) -> Model:
    if library != "timm":
        raise _unsupported(library, "backbone.name='swin'")
    dim, depths, heads = (options[key] for key in ("dim", "depths", "heads"))
    last = options["image_size"] // options["patch"] // 2 ** (len(depths) - 1)
    if last < options["window"]:  # timm would then use a smaller table than ours
        kind = f"a last stage smaller than backbone.window={options['window']}"
        raise _unsupported(library, kind)
    arguments = {
        "img_size": options["image_size"],
        "patch_size": options["patch"],
        "window_size": options["window"],
        "embed_dim": dim,
        "depths": tuple(depths),
        "num_heads": tuple(heads),
        "in_chans": options["channels"],
        "num_classes": 0,
    }
    arrays = {path: array for path, array in variables.items() if path != "mask_token"}
    lines = _created("swin_tiny_patch4_window7_224", arguments)
    return to_timm(arrays, backbone), lines


def _convnext(
    variables: Arrays, backbone: Mapping[str, Any], options: Mapping[str, Any], library: str
) -> Model:
    if library != "timm":
        raise _unsupported(library, "backbone.name='convnext'")
    depths, dims, patch = list(options["depths"]), list(options["dims"]), options["patch"]
    count = len(depths)
    if count > CONVNEXT_STAGES:
        raise _unsupported(library, f"{count} stages")
    arguments = {
        "depths": depths + [1] * (CONVNEXT_STAGES - count),
        "dims": dims + dims[-1:] * (CONVNEXT_STAGES - count),
        "use_grn": options["grn"],
        "ls_init_value": None if options["grn"] else options["layer_scale"],
        "in_chans": options["channels"],
        "num_classes": 0,
    }
    lines = [
        "import torch.nn as nn",
        "from timm.models.convnext import ConvNeXt",
        f"model = ConvNeXt({_arguments(arguments)})",
    ]
    if patch != 4:  # timm's patch_size also changes the strides of the stages
        sizes = f"{options['channels']}, {dims[0]}, {patch}, {patch}"
        lines.append(f"model.stem[0] = nn.Conv2d({sizes})")
    if count < CONVNEXT_STAGES:
        lines.append(f"model.stages = model.stages[:{count}]")
    return to_timm(variables, backbone), lines


def _efficientnet(
    variables: Arrays, backbone: Mapping[str, Any], options: Mapping[str, Any], library: str
) -> Model:
    if library != "timm":
        raise _unsupported(library, "backbone.name='efficientnet'")
    stages = []
    for depth, width, plan in zip(options["depths"], options["widths"], TABLE, strict=False):
        kind = "ir" if plan.expansion > 1 else "ds"
        sizes = f"k{plan.kernel}_s{plan.stride}_e{plan.expansion}_c{width}"
        stages.append([f"{kind}_r{depth}_{sizes}_se0.25"])
    arguments = {
        "num_features": options["head_width"],
        "stem_size": options["stem_width"],
        "in_chans": options["channels"],
        "num_classes": 0,
    }
    if options["padding"] == "same":
        arguments["pad_type"] = "same"
    lines = [
        "import functools, torch.nn as nn",
        "from timm.models.efficientnet import EfficientNet, decode_arch_def",
        f"norm = functools.partial(nn.BatchNorm2d, eps={options['norm_eps']!r})",
        f"model = EfficientNet(decode_arch_def({stages!r}), {_arguments(arguments)}, "
        "round_chs_fn=round, act_layer=nn.SiLU, norm_layer=norm)",
    ]
    if options["stem"] == "cifar":
        lines.append("model.conv_stem.stride = (1, 1)")
    return _with_counters(to_timm(variables, backbone)), lines


WRITERS = {
    "resnet": _resnet,
    "vit": _vit,
    "swin": _swin,
    "convnext": _convnext,
    "efficientnet": _efficientnet,
}


def _created(name: str, arguments: Mapping[str, Any]) -> list[str]:
    return ["import timm", f"model = timm.create_model({name!r}, {_arguments(arguments)})"]


def _arguments(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in arguments.items())


def _unsupported(library: str, what: str) -> UserError:
    return UserError(f"{library} has no network with {what}; use --format=safetensors or npz")
