"""Networks by the names of Hugging Face's transformers and of mmpretrain, for timm's; and what the
settings say that lie beside a file.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.weights.places import Arrays

Swaps = Mapping[str, str]  # start of a name -> what is in its place
VIT_TOP: Swaps = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.register_tokens": "reg_token",
    "embeddings.patch_embeddings.projection.": "patch_embed.proj.",
    "layernorm.": "norm.",
}
VIT_BLOCK: Swaps = {  # ViT's and ViTMAE's, then what DINOv2's has besides
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
RESNET = (  # pattern -> name
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
    """ViTModel's, ViTMAEModel's and Dinov2Model's names as timm's."""
    out = _fused(_renamed(tensors, r"encoder\.layer\.", VIT_BLOCK, VIT_TOP))
    if "mask_token" in out:
        out["mask_token"] = out["mask_token"].reshape(1, 1, -1)
    return out


def clip(tensors: Arrays) -> dict[str, np.ndarray]:
    """CLIPVisionModel's names as timm's."""
    out = _fused(_renamed(tensors, r"encoder\.layers\.", CLIP_BLOCK, CLIP_TOP))
    out["cls_token"] = out["cls_token"].reshape(1, 1, -1)
    out["pos_embed"] = out["pos_embed"][None]
    return out


def resnet(tensors: Arrays) -> dict[str, np.ndarray]:
    """ResNetModel's names as timm's."""
    out = {}
    for name, array in tensors.items():
        for pattern, new in RESNET:
            name = re.sub(f"^{pattern}", new, name)  # type: ignore[call-overload]
        out[name] = array
    return out


def mmpretrain(tensors: Arrays) -> dict[str, np.ndarray]:
    """Names of mmpretrain's VisionTransformer as timm's."""
    return _renamed(tensors, r"layers\.", MMPRETRAIN_BLOCK, MMPRETRAIN_TOP)


def _renamed(tensors: Arrays, start: str, block: Swaps, top: Swaps) -> dict[str, np.ndarray]:
    out = {}
    for name, array in tensors.items():
        inner = re.fullmatch(rf"{start}(\d+)\.(.*)", name)
        out[f"blocks.{inner[1]}.{_swap(inner[2], block)}" if inner else _swap(name, top)] = array
    return out


def _swap(name: str, starts: Swaps) -> str:
    for old, new in starts.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _fused(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Query, key and value of each block as one layer; a bias that one of them lacks is 0."""
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

# Of a family, nonlinearity in config.json -> our name.
NONLINEARITIES: Mapping[str, Mapping[str, str]] = {
    "vit": {"gelu": "gelu", "quick_gelu": "quick_gelu"},
    "resnet": {"relu": "relu"},
}


def settings(
    beside: Mapping[str, Mapping[str, Any]], family: str
) -> tuple[dict[str, Any], dict[str, int]]:
    """Keys of the section `backbone` that config.json or open_clip_config.json tells and shapes do
    not; and what it says of shapes: "dim", "depth", "patch".

    Raises:
      UserError: a nonlinearity that ours has not, or a value of another kind than expected.
    """
    if "open_clip" in beside:
        return _open_clip(beside["open_clip"])
    config = beside.get("config", {})
    if "architecture" in config:  # timm's
        return _timm(config)
    vision = config.get("vision_config")
    config = vision if isinstance(vision, Mapping) and vision else config
    told: dict[str, Any] = {}
    if "num_attention_heads" in config:
        told["heads"] = _whole(config, "num_attention_heads")
    if config.get("use_swiglu_ffn"):
        told["mlp"] = "swiglu"
    elif "hidden_act" in config:
        act, known = config["hidden_act"], NONLINEARITIES.get(family, {"gelu": "gelu"})
        if not isinstance(act, str) or act not in known:
            raise UserError(f"its config.json says hidden_act={act!r}; ours has {', '.join(known)}")
        told["mlp"] = known[act]
    if "layer_norm_eps" in config:
        eps = config["layer_norm_eps"]
        if not isinstance(eps, (int, float)) or not 0 < eps < 1:
            raise UserError(f"its config.json says layer_norm_eps={eps!r}")
        told["norm_eps"] = float(eps)
    if config.get("downsample_in_bottleneck"):
        told["stride_in_1x1"] = True
    names = {"hidden_size": "dim", "num_hidden_layers": "depth", "patch_size": "patch"}
    return told, {ours: _whole(config, name) for name, ours in names.items() if name in config}


def _timm(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
    name, arguments = config["architecture"], config.get("model_args")
    arguments = arguments if isinstance(arguments, Mapping) else {}
    told: dict[str, Any] = {}
    if "num_heads" in arguments:
        told["heads"] = _whole(arguments, "num_heads")
    if isinstance(name, str) and "clip" in name:
        told["mlp"] = "quick_gelu" if "quickgelu" in name else "gelu"
    names = {"embed_dim": "dim", "depth": "depth", "patch_size": "patch"}
    return told, {
        ours: _whole(arguments, name)
        for name, ours in names.items()
        if isinstance(arguments.get(name), int)
    }


def _open_clip(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
    model = config["model_cfg"]
    vision = model.get("vision_cfg") if isinstance(model, Mapping) else None
    if not isinstance(vision, Mapping) or "width" not in vision:
        raise UserError("its open_clip_config.json says nothing of a vision transformer")
    dim = _whole(vision, "width")
    heads = dim // _whole({"head_width": 64} | dict(vision), "head_width")
    mlp = "quick_gelu" if model.get("quick_gelu") else "gelu"
    return {"heads": heads, "mlp": mlp}, {"dim": dim, "patch": _whole(vision, "patch_size")}


def _whole(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"its config says {name}={value!r}; expected a positive whole number")
    return value


def statistics(beside: Mapping[str, Mapping[str, Any]]) -> tuple[list[float], list[float]] | None:
    """Mean and deviation with which images are normalised, where a file beside says so.

    Raises:
      UserError: other than three numbers each.
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
            found = [place[mean], place[std]]
            for numbers in found:
                fit = isinstance(numbers, list) and len(numbers) in (1, 3)
                if not fit or not all(isinstance(x, (int, float)) for x in numbers):
                    raise UserError(
                        f"{mean} and {std} beside it are {found!r:.200}; expected 3 numbers each"
                    )
            return found[0], found[1]
    return None
