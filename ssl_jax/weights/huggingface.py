"""Renaming from Hugging Face's transformers and from mmpretrain to timm's names; and the settings
in files beside the weights.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.weights import efficientnet
from ssl_jax.weights.places import Arrays

Swaps = Mapping[str, str]  # prefix of a name -> its replacement
VIT_TOP: Swaps = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.register_tokens": "reg_token",
    "embeddings.patch_embeddings.projection.": "patch_embed.proj.",
    "layernorm.": "norm.",
}
VIT_BLOCK: Swaps = {  # ViT's and ViTMAE's, then those that only DINOv2's has
    "attention.attention.query.": "attn.q.",
    "attention.attention.key.": "attn.k.",
    "attention.attention.value.": "attn.v.",
    "attention.output.dense.": "attn.proj.",
    "intermediate.dense.": "mlp.fc1.",
    "output.dense.": "mlp.fc2.",
    "layernorm_before.": "norm1.",
    "layernorm_after.": "norm2.",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "mlp.weights_in.": "mlp.fc1.",
    "mlp.weights_out.": "mlp.fc2.",
}
CLIP_TOP: Swaps = {
    "embeddings.class_embedding": "cls_token",
    "embeddings.position_embedding.weight": "pos_embed",
    "embeddings.patch_embedding.": "patch_embed.proj.",
    "pre_layrnorm.": "norm_pre.",
    "post_layernorm.": "norm.",
}
CLIP_BLOCK: Swaps = {
    "self_attn.q_proj.": "attn.q.",
    "self_attn.k_proj.": "attn.k.",
    "self_attn.v_proj.": "attn.v.",
    "self_attn.out_proj.": "attn.proj.",
    "layer_norm1.": "norm1.",
    "layer_norm2.": "norm2.",
}
MMPRETRAIN_TOP: Swaps = {
    "patch_embed.projection.": "patch_embed.proj.",
    "pre_norm.": "norm_pre.",
    "ln1.": "norm.",
    "ln2.": "fc_norm.",
}
MMPRETRAIN_BLOCK: Swaps = {
    "ln1.": "norm1.",
    "ln2.": "norm2.",
    "ffn.layers.0.0.": "mlp.fc1.",
    "ffn.layers.1.": "mlp.fc2.",
    "attn.gamma1.weight": "ls1.gamma",
    "ffn.gamma2.weight": "ls2.gamma",
}
PARTS = {"convolution": "conv", "normalization": "bn"}
RESNET = (  # pattern -> replacement
    (r"embedder\.embedder\.convolution\.", r"conv1."),
    (r"embedder\.embedder\.normalization\.", r"bn1."),
    (
        r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.(convolution|normalization)\.",
        lambda m: f"layer{int(m[1]) + 1}.{m[2]}.{PARTS[m[4]]}{int(m[3]) + 1}.",
    ),
    (
        r"encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.(convolution|normalization)\.",
        lambda m: f"layer{int(m[1]) + 1}.{m[2]}.downsample.{'cn'.index(m[3][0])}.",
    ),
)


def vit(tensors: Arrays) -> dict[str, np.ndarray]:
    """Rename the tensors of ViTModel, ViTMAEModel and Dinov2Model to timm's names."""
    out = _fuse(_rename(tensors, r"encoder\.layer\.", VIT_BLOCK, VIT_TOP))
    if "mask_token" in out:
        out["mask_token"] = out["mask_token"].reshape(1, 1, -1)
    return out


def clip(tensors: Arrays) -> dict[str, np.ndarray]:
    """Rename the tensors of CLIPVisionModel to timm's names."""
    out = _fuse(_rename(tensors, r"encoder\.layers\.", CLIP_BLOCK, CLIP_TOP))
    out["cls_token"] = out["cls_token"].reshape(1, 1, -1)
    out["pos_embed"] = out["pos_embed"][None]
    return out


def resnet(tensors: Arrays) -> dict[str, np.ndarray]:
    """Rename the tensors of ResNetModel to timm's names."""
    out = {}
    for name, array in tensors.items():
        for pattern, replacement in RESNET:
            name = re.sub(f"^{pattern}", replacement, name)  # type: ignore[call-overload]
        out[name] = array
    return out


def mmpretrain(tensors: Arrays) -> dict[str, np.ndarray]:
    """Rename the tensors of mmpretrain's VisionTransformer to timm's names."""
    return _rename(tensors, r"layers\.", MMPRETRAIN_BLOCK, MMPRETRAIN_TOP)


def _rename(tensors: Arrays, start: str, block: Swaps, top: Swaps) -> dict[str, np.ndarray]:
    out = {}
    for name, array in tensors.items():
        inner = re.fullmatch(rf"{start}(\d+)\.(.*)", name)
        out[f"blocks.{inner[1]}.{swap(inner[2], block)}" if inner else swap(name, top)] = array
    return out


def swap(name: str, starts: Swaps) -> str:
    """Replace the first prefix that matches."""
    for prefix, replacement in starts.items():
        if name.startswith(prefix):
            return replacement + name.removeprefix(prefix)
    return name


def _fuse(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Fuse query, key and value of each block into one layer; missing biases are 0."""
    out = dict(tensors)
    for name in [name for name in out if name.endswith(".attn.q.weight")]:
        start = name.removesuffix("q.weight")
        if not all(f"{start}{part}.weight" in out for part in "kv"):
            continue
        weights = [out.pop(f"{start}{part}.weight") for part in "qkv"]
        out[f"{start}qkv.weight"] = np.concatenate(weights)
        biases = [out.pop(f"{start}{part}.bias", None) for part in "qkv"]
        if any(bias is not None for bias in biases):
            zeros = [np.zeros(len(weight), weight.dtype) for weight in weights]
            both = zip(biases, zeros, strict=True)
            out[f"{start}qkv.bias"] = np.concatenate([z if b is None else b for b, z in both])
    return out


# --- settings beside a file ---

# Family -> nonlinearity in config.json -> our name.
NONLINEARITIES: Mapping[str, Mapping[str, str]] = {
    "vit": {"gelu": "gelu", "quick_gelu": "quick_gelu"},
    "resnet": {"relu": "relu"},
}


def settings(
    beside: Mapping[str, Mapping[str, Any]], family: str
) -> tuple[dict[str, Any], dict[str, int]]:
    """Read the keys of the section `backbone` that shapes do not show from config.json or
    open_clip_config.json; and its sizes, to be compared with the shapes: "dim", "depth", "patch".

    Raises:
      UserError: an unsupported nonlinearity, or a value of an unexpected type.
    """
    if "open_clip" in beside:
        return _open_clip(beside["open_clip"])
    config = beside.get("config", {})
    if "architecture" in config:  # timm's
        return _timm(config)
    vision = config.get("vision_config")
    config = vision if isinstance(vision, Mapping) and vision else config
    options: dict[str, Any] = {}
    if "num_attention_heads" in config:
        options["heads"] = _whole(config, "num_attention_heads")
    if config.get("use_swiglu_ffn"):
        options["mlp"] = "swiglu"
    elif "hidden_act" in config:
        act, supported = config["hidden_act"], NONLINEARITIES.get(family, {"gelu": "gelu"})
        if not isinstance(act, str) or act not in supported:
            raise UserError(
                f"config.json: unsupported hidden_act={act!r}; expected {', '.join(supported)}"
            )
        options["mlp"] = supported[act]
    if "layer_norm_eps" in config:
        eps = config["layer_norm_eps"]
        if not isinstance(eps, (int, float)) or not 0 < eps < 1:
            raise UserError(f"config.json: layer_norm_eps={eps!r}; expected a number from 0 to 1")
        options["norm_eps"] = float(eps)
    if config.get("downsample_in_bottleneck"):
        options["stride_in_1x1"] = True
    names = {"hidden_size": "dim", "num_hidden_layers": "depth", "patch_size": "patch"}
    return options, {ours: _whole(config, name) for name, ours in names.items() if name in config}


def _timm(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
    name, arguments = config["architecture"], config.get("model_args")
    arguments = arguments if isinstance(arguments, Mapping) else {}
    options: dict[str, Any] = {}
    if "num_heads" in arguments:
        options["heads"] = _whole(arguments, "num_heads")
    if isinstance(name, str) and "clip" in name:
        options["mlp"] = "quick_gelu" if "quickgelu" in name else "gelu"
    if isinstance(name, str) and name.startswith("tf_efficientnet"):
        options |= efficientnet.TENSORFLOW
    names = {"embed_dim": "dim", "depth": "depth", "patch_size": "patch"}
    return options, {
        ours: _whole(arguments, name)
        for name, ours in names.items()
        if isinstance(arguments.get(name), int)
    }


def _open_clip(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
    model = config["model_cfg"]
    vision = model.get("vision_cfg") if isinstance(model, Mapping) else None
    if not isinstance(vision, Mapping) or "width" not in vision:
        raise UserError("open_clip_config.json describes no vision transformer")
    dim = _whole(vision, "width")
    heads = dim // _whole({"head_width": 64} | dict(vision), "head_width")
    mlp = "quick_gelu" if model.get("quick_gelu") else "gelu"
    return {"heads": heads, "mlp": mlp}, {"dim": dim, "patch": _whole(vision, "patch_size")}


def _whole(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"config: {name}={value!r}; expected a positive whole number")
    return value


def statistics(beside: Mapping[str, Mapping[str, Any]]) -> tuple[list[float], list[float]] | None:
    """Read the mean and standard deviation for normalising images from the files beside the
    weights; None if there are none.

    Raises:
      UserError: a value other than one or three numbers.
    """
    config, clip = beside.get("config", {}), beside.get("open_clip", {})
    places = (
        (beside.get("preprocessor", {}), "image_mean", "image_std"),
        (config.get("pretrained_cfg", {}), "mean", "std"),
        (clip.get("preprocess_cfg", {}), "mean", "std"),
    )
    for place, mean, std in places:
        if isinstance(place, Mapping) and mean in place and std in place:
            if place.get("do_normalize") is False:
                return [0.0], [1.0]
            pair = [place[mean], place[std]]
            for numbers in pair:
                fit = isinstance(numbers, list) and len(numbers) in (1, 3)
                if not fit or not all(isinstance(x, (int, float)) for x in numbers):
                    raise UserError(f"{mean} and {std}: expected 3 numbers each, got {pair!r:.200}")
            return pair[0], pair[1]
    return None
