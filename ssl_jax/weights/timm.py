"""A backbone as timm or torchvision has it: their names and layouts, and what builds the model."""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.nets.positions import sincos
from ssl_jax.nets.resnet import DEPTHS, resnet, resnet_small
from ssl_jax.nets.swin import SIZES as SWINS
from ssl_jax.nets.swin import swin
from ssl_jax.nets.vit import FIXED_ORDERS, SIZES, vit
from ssl_jax.weights import torchvision
from ssl_jax.weights.networks import to_timm
from ssl_jax.weights.places import Arrays

Model = tuple[dict[str, np.ndarray], list[str]]  # state dictionary, lines of Python


def export(variables: Arrays, backbone: Mapping[str, Any], channels: int, library: str) -> Model:
    """The state dictionary of a backbone, and the lines of Python that make the module `model`
    which takes it with `strict=True` and whose output is our "pooled".

    Args:
      variables: by our paths, without "backbone/".
      backbone: the section `backbone` of a config.
      library: "timm" or "torchvision".

    Raises:
      UserError: that library has no such network.
    """
    options = dict(backbone)
    name = str(options.pop("name", "resnet"))
    makers: dict[str, tuple[Any, Any]] = {
        "resnet": (resnet, _resnet),
        "resnet_small": (resnet_small, _resnet),
        "vit": (vit, _vit),
        "swin": (swin, _swin),
    }
    if name not in makers:
        raise _none(library, f"backbone.name={name!r}")
    make, write = makers[name]
    bound = inspect.signature(make).bind(**options)
    bound.apply_defaults()
    if make is resnet_small:  # a short name for a resnet of depth 8
        own = {"depth": 8, "num_filters": bound.arguments["width"], "stem": bound.arguments["stem"]}
        bound = inspect.signature(resnet).bind(**own)
        bound.apply_defaults()
    return write(variables, backbone, bound.arguments | {"channels": channels}, library)


def _resnet(
    variables: Arrays, backbone: Mapping[str, Any], given: Mapping[str, Any], library: str
) -> Model:
    for key, wrong in (
        ("sk_ratio", given["sk_ratio"] > 0),
        ("stride_in_1x1", given["stride_in_1x1"]),
    ):
        if wrong:
            raise _none(library, f"backbone.{key}={given[key]!r}")
    depth, stem, channels = given["depth"], given["stem"], given["channels"]
    filters = given["num_filters"] * given["width"]
    kind, stages = DEPTHS[depth]
    thin = filters != 64 or len(stages) != 4
    name = f"resnet{depth if len(stages) == 4 else 18}"
    if library == "timm":
        arguments = {"num_classes": 0, "in_chans": channels}
        lines = ["import timm, torch.nn as nn"]
        lines += [f"from timm.models.resnet import {BLOCKS[kind]} as Block"] if thin else []
        lines.append(f"model = timm.create_model({name!r}, {_said(arguments)})")
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
    tensors = to_timm(variables, backbone)
    for norm in [key for key in tensors if key.endswith("running_mean")]:  # PyTorch counts batches
        counter = norm.replace("running_mean", "num_batches_tracked")
        tensors[counter] = np.zeros((), np.int64)
    return tensors, lines


BLOCKS = {"basic": "BasicBlock", "bottleneck": "Bottleneck"}  # their names in both libraries


def _stages(kind: str, stages: tuple[int, ...], filters: int) -> list[str]:
    """Lines that put blocks of these widths in the place of a model's own stages."""
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
    variables: Arrays, backbone: Mapping[str, Any], given: Mapping[str, Any], library: str
) -> Model:
    published = SIZES.get(given["size"], (None, None, None, 4.0))
    keys = ("dim", "depth", "heads", "mlp_ratio")
    own = dict(zip(keys, published, strict=True))
    given = {**given, **{k: own[k] if given[k] is None else given[k] for k in keys}}
    tensors = to_timm(
        {path: array for path, array in variables.items() if path != "mask_token"}, backbone
    )  # neither library has one
    if given["position"] in FIXED_ORDERS:
        side = given["image_size"] // given["patch"]
        table = sincos(
            given["dim"], (side, side), FIXED_ORDERS[given["position"]], given["cls_token"]
        )
        tensors["pos_embed"] = table[None].astype(np.float32)
    usual = 1e-5 if given["pre_norm"] else 1e-6
    if given["norm_eps"] != usual:
        raise _none(library, f"backbone.norm_eps={given['norm_eps']}")
    if library == "torchvision":
        return _torchvision_vit(tensors, given)
    arguments = {
        "img_size": given["image_size"],
        "patch_size": given["patch"],
        "embed_dim": given["dim"],
        "depth": given["depth"],
        "num_heads": given["heads"],
        "mlp_ratio": given["mlp_ratio"],
        "qkv_bias": given["qkv_bias"],
        "init_values": given["layer_scale"],
        "in_chans": given["channels"],
        "num_classes": 0,
        "global_pool": "token" if given["pool"] == "cls" else "avg",
    }
    if given["position"] == "relative":
        return _beit(tensors, given, arguments)
    name = {
        ("gelu", False): "vit_base_patch16_224",
        ("gelu", True): "vit_base_patch16_clip_224",
        ("quick_gelu", True): "vit_base_patch16_clip_quickgelu_224",
        ("swiglu", False): "vit_giant_patch14_dinov2",
    }.get((given["mlp"], given["pre_norm"]))
    if name is None:
        raise _none(library, f"backbone.mlp={given['mlp']!r} with pre_norm={given['pre_norm']}")
    sizes = {v: k for k, v in SIZES.items() if k in ("tiny", "small", "base", "large")}
    size = sizes.get(tuple(given[k] for k in keys))
    if size and name == "vit_base_patch16_224":
        name = f"vit_{size}_patch16_224"
    if given["mlp"] == "swiglu":
        width = tensors["blocks.0.mlp.fc2.weight"].shape[1]
        arguments["mlp_ratio"] = 2 * width / given["dim"]
    arguments |= {"class_token": given["cls_token"], "fc_norm": given["norm_after_pool"]}
    arguments |= {"reg_tokens": given["registers"], "no_embed_class": given["registers"] > 0}
    if given["registers"] and given["cls_token"]:  # then timm's table has no row of the class token
        table = tensors["pos_embed"]
        tensors["cls_token"] = tensors["cls_token"] + table[:, :1]
        tensors["pos_embed"] = table[:, 1:]
    return _after_pool(tensors, given), _created(name, arguments)


def _beit(
    tensors: dict[str, np.ndarray], given: Mapping[str, Any], arguments: dict[str, Any]
) -> Model:
    """timm's BEiT with one table: no bias of the keys, which changes no output."""
    if not given["cls_token"] or given["mlp"] != "gelu" or given["pre_norm"]:
        raise _none("timm", "relative positions without a class token")
    out = {}
    for name, array in tensors.items():
        if name.endswith("attn.qkv.bias"):
            start = name.removesuffix("qkv.bias")
            out[f"{start}q_bias"], _, out[f"{start}v_bias"] = np.split(array, 3)
        else:
            out[name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2")] = array
    arguments |= {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True}
    arguments |= {"use_abs_pos_emb": False, "use_fc_norm": given["norm_after_pool"]}
    return _after_pool(out, given), _created("beit_base_patch16_224", arguments)


def _after_pool(tensors: dict[str, np.ndarray], given: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if not given["norm_after_pool"]:
        return tensors
    after = {"norm.weight": "fc_norm.weight", "norm.bias": "fc_norm.bias"}
    return {after.get(name, name): array for name, array in tensors.items()}


def _torchvision_vit(tensors: dict[str, np.ndarray], given: Mapping[str, Any]) -> Model:
    plain = {
        "position": "relative",
        "cls_token": False,
        "pool": "avg",
        "qkv_bias": False,
        "pre_norm": True,
        "norm_after_pool": True,
        "mlp": given["mlp"] if given["mlp"] != "gelu" else None,
        "registers": given["registers"] or None,
        "layer_scale": given["layer_scale"] or 0.0,
    }
    for key, without in plain.items():
        if given[key] == without:
            raise _none("torchvision", f"backbone.{key}={given[key]!r}")
    arguments = {
        "image_size": given["image_size"],
        "patch_size": given["patch"],
        "num_layers": given["depth"],
        "num_heads": given["heads"],
        "hidden_dim": given["dim"],
        "mlp_dim": round(given["dim"] * given["mlp_ratio"]),
    }
    lines = [
        "import torch.nn as nn, torchvision",
        f"model = torchvision.models.VisionTransformer({_said(arguments)})",
        "model.heads = nn.Identity()",
    ]
    if given["channels"] != 3:
        sizes = f"{given['channels']}, {given['dim']}, {given['patch']}, {given['patch']}"
        lines.append(f"model.conv_proj = nn.Conv2d({sizes})")
    return torchvision.from_timm(tensors), lines


def _swin(
    variables: Arrays, backbone: Mapping[str, Any], given: Mapping[str, Any], library: str
) -> Model:
    if library != "timm":
        raise _none(library, "backbone.name='swin'")
    published: tuple[Any, ...] = SWINS.get(given["size"], (None, None, None))
    own = dict(zip(("dim", "depths", "heads"), published, strict=True))
    dim, depths, heads = (own[k] if given[k] is None else given[k] for k in own)
    sides = [given["image_size"] // given["patch"] // 2**s for s in range(len(depths))]
    if sides[-1] < given["window"]:  # there timm would cut another table than ours
        raise _none(library, f"a last stage smaller than backbone.window={given['window']}")
    arguments = {
        "img_size": given["image_size"],
        "patch_size": given["patch"],
        "window_size": given["window"],
        "embed_dim": dim,
        "depths": tuple(depths),
        "num_heads": tuple(heads),
        "in_chans": given["channels"],
        "num_classes": 0,
    }
    kept = {path: array for path, array in variables.items() if path != "mask_token"}
    lines = _created("swin_tiny_patch4_window7_224", arguments)
    # timm's norms have epsilon 1e-5, ours 1e-6.
    lines += [
        "for module in model.modules():",
        "    if type(module).__name__ == 'LayerNorm': module.eps = 1e-6",
    ]
    return to_timm(kept, backbone), lines


def _created(name: str, arguments: Mapping[str, Any]) -> list[str]:
    return ["import timm", f"model = timm.create_model({name!r}, {_said(arguments)})"]


def _said(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in arguments.items())


def _none(library: str, what: str) -> UserError:
    return UserError(f"{library} has no network with {what}; use --format=safetensors or npz")
