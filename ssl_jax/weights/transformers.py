"""Export of a backbone to Hugging Face's transformers: names, layouts and settings of ViTModel,
Dinov2Model (with registers) and ResNetModel.

The names are those of the files that `save_pretrained` writes, which differ from those of the
modules in transformers 5. `weights.huggingface` reads them back.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ssl_jax import nets
from ssl_jax.core.errors import UserError
from ssl_jax.nets.backbones.resnet import DEPTHS
from ssl_jax.nets.backbones.vit import FIXED_ORDERS
from ssl_jax.nets.blocks import swiglu_width
from ssl_jax.nets.positions import sincos
from ssl_jax.weights import huggingface
from ssl_jax.weights.conversion import to_timm
from ssl_jax.weights.places import Arrays

VIT, DINOV2, REGISTERS, RESNET = (
    "ViTModel",
    "Dinov2Model",
    "Dinov2WithRegistersModel",
    "ResNetModel",
)
KINDS = {VIT: "vit", DINOV2: "dinov2", REGISTERS: "dinov2_with_registers", RESNET: "resnet"}
# Names of Dinov2's blocks that are timm's, and of ViT's blocks that are not.
SAME = ("norm1.", "norm2.", "mlp.fc1.", "mlp.fc2.")
BLOCK = {ours: theirs for theirs, ours in huggingface.VIT_BLOCK.items() if "weights_" not in theirs}
TOP = {ours: theirs for theirs, ours in huggingface.VIT_TOP.items()}


class Model(NamedTuple):
    """A network of transformers.

    Attributes:
      name: its class.
      tensors: its state dictionary.
      config: its `config.json`.
      features: pooling of the last layer, see `objectives.base.Probe` -> Python expression of those
        features, of the model's output `out`.
    """

    name: str
    tensors: dict[str, np.ndarray]
    config: dict[str, Any]
    features: Mapping[str, str]


def export(variables: Arrays, backbone: Mapping[str, Any], channels: int) -> Model:
    """Convert a backbone to a network of transformers.

    Args:
      variables: by our paths, without "backbone/".
      backbone: the section `backbone` of a config.

    Raises:
      UserError: transformers has no such network.
    """
    options = dict(backbone)
    name = str(options.pop("name", nets.DEFAULT))
    config = nets.backbone_config(name, options)
    write = {"vit": _vit, "resnet": _resnet}.get(config.layout)
    if write is None:
        raise _unsupported(f"backbone.name={name!r}")
    explicit = dataclasses.asdict(config.explicit()) | {"channels": channels}
    model = write(variables, backbone, explicit)
    common = {
        "architectures": [model.name],
        "model_type": KINDS[model.name],
        "num_channels": channels,
        "dtype": "float32",
    }
    return model._replace(config=common | model.config)


def _vit(variables: Arrays, backbone: Mapping[str, Any], options: Mapping[str, Any]) -> Model:
    dim, depth, swiglu = options["dim"], options["depth"], options["mlp"] == "swiglu"
    for key, unsupported in (
        ("position", options["position"] == "relative"),
        ("cls_token", not options["cls_token"]),
        ("norm_after_pool", options["norm_after_pool"]),
        ("pre_norm", options["pre_norm"]),
    ):
        if unsupported:
            raise _unsupported(f"backbone.{key}={options[key]!r}")
    tensors = to_timm(variables, backbone)
    side = options["image_size"] // options["patch"]
    if options["position"] in FIXED_ORDERS:
        order = FIXED_ORDERS[options["position"]]
        table = sincos(dim, (side, side), order, cls_token=True)
        tensors["pos_embed"] = table[None].astype(np.float32)
    elif options["position"] == "none":
        tensors["pos_embed"] = np.zeros((1, side * side + 1, dim), np.float32)
    name = REGISTERS if options["registers"] else DINOV2 if swiglu else VIT
    name = DINOV2 if name == VIT and options["layer_scale"] else name
    out = _named(tensors, name)
    hidden = tensors["blocks.0.mlp.fc2.weight"].shape[1]
    config = {
        "hidden_size": dim,
        "num_hidden_layers": depth,
        "num_attention_heads": options["heads"],
        "image_size": options["image_size"],
        "patch_size": options["patch"],
        "layer_norm_eps": options["norm_eps"],
        "qkv_bias": options["qkv_bias"],
        "hidden_act": "gelu" if swiglu else options["mlp"],
    }
    if name == VIT:
        out.pop("embeddings.mask_token", None)
        # Its pooler becomes the identity, so that "pooler_output" is the class token.
        out |= {"pooler.dense.weight": np.eye(dim, dtype=np.float32)}
        out |= {"pooler.dense.bias": np.zeros(dim, np.float32)}
        config |= {"intermediate_size": hidden, "pooler_act": "linear", "pooler_output_size": dim}
    else:
        ratio = options["mlp_ratio"]
        ratio = int(ratio) if ratio == int(ratio) else ratio
        if hidden != (swiglu_width(int(dim * ratio)) if swiglu else int(dim * ratio)):
            raise _unsupported(f"backbone.mlp_ratio={options['mlp_ratio']}")
        out.setdefault("embeddings.mask_token", np.zeros((1, dim), np.float32))
        for block in range(depth):
            for scale in (1, 2):  # by 1 where ours has no LayerScale
                place = f"encoder.layer.{block}.layer_scale{scale}.lambda1"
                out.setdefault(place, np.ones(dim, np.float32))
        config |= {"mlp_ratio": ratio, "use_swiglu_ffn": swiglu}
        config |= {"num_register_tokens": options["registers"]} if options["registers"] else {}
    patches = f"out.last_hidden_state[:, {1 + options['registers']}:].mean(1)"
    token = "out.last_hidden_state[:, 0]"
    pooled = token if options["pool"] == "cls" else patches
    return Model(name, out, config, {"pooled": pooled, "avg": patches, "cls": token})


def _named(tensors: Arrays, name: str) -> dict[str, np.ndarray]:
    """Rename tensors of timm's to those of a vision transformer of transformers."""
    out: dict[str, np.ndarray] = {}
    for key, array in _split(tensors).items():
        inner = re.fullmatch(r"blocks\.(\d+)\.(.*)", key)
        if not inner:
            out[huggingface.swap(key, TOP)] = array
            continue
        leaf = inner[2]
        if name == VIT or not leaf.startswith(SAME):
            leaf = huggingface.swap(leaf, BLOCK)
        out[f"encoder.layer.{inner[1]}.{leaf}"] = array
    if "embeddings.mask_token" in out:
        out["embeddings.mask_token"] = out["embeddings.mask_token"].reshape(1, -1)
    if any(".mlp.fc1.weight" in key for key in out) and _gated(tensors):
        gates = {"mlp.fc1.": "mlp.weights_in.", "mlp.fc2.": "mlp.weights_out."}
        for old, new in gates.items():
            out = {key.replace(old, new): array for key, array in out.items()}
    return out


def _gated(tensors: Arrays) -> bool:
    first, last = (tensors[f"blocks.0.mlp.fc{i}.weight"] for i in (1, 2))
    return bool(first.shape[0] == 2 * last.shape[1])


def _split(tensors: Arrays) -> dict[str, np.ndarray]:
    """Split query, key and value, which timm fuses."""
    out: dict[str, np.ndarray] = {}
    for key, array in tensors.items():
        start, fused, leaf = key.partition(".attn.qkv.")
        if fused:
            parts = zip("qkv", np.split(array, 3), strict=True)
            out |= {f"{start}.attn.{part}.{leaf}": values for part, values in parts}
        else:
            out[key] = array
    return out


def _resnet(variables: Arrays, backbone: Mapping[str, Any], options: Mapping[str, Any]) -> Model:
    for key, unsupported in (
        ("sk_ratio", options["sk_ratio"] > 0),
        ("neck", bool(options["neck"])),
        ("stem", options["stem"] != "imagenet"),
    ):
        if unsupported:
            raise _unsupported(f"backbone.{key}={options[key]!r}")
    kind, stages = DEPTHS[options["depth"]]
    filters = options["num_filters"] * options["width"]
    wide = 1 if kind == "basic" else 4
    config = {
        "embedding_size": filters,
        "hidden_sizes": [filters * wide * 2**stage for stage in range(len(stages))],
        "depths": list(stages),
        "layer_type": kind,
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": options["stride_in_1x1"],
    }
    out = {_resnet_name(key): array for key, array in to_timm(variables, backbone).items()}
    for norm in [key for key in out if key.endswith("running_mean")]:  # PyTorch counts batches
        out[norm.replace("running_mean", "num_batches_tracked")] = np.zeros((), np.int64)
    pooled = "out.pooler_output.flatten(1)"
    return Model(RESNET, out, config, {"pooled": pooled, "avg": pooled})


def _resnet_name(key: str) -> str:
    """Return the name of a tensor of timm's in ResNetModel."""
    parts = {"conv": "convolution", "bn": "normalization", "0": "convolution", "1": "normalization"}
    if stem := re.fullmatch(r"(conv|bn)1\.(\w+)", key):
        return f"embedder.embedder.{parts[stem[1]]}.{stem[2]}"
    match = re.fullmatch(r"layer(\d)\.(\d+)\.(?:(conv|bn)(\d)|downsample\.([01]))\.(\w+)", key)
    assert match is not None, key
    stage, layer, part, number, shortcut, leaf = match.groups()
    inner = f"shortcut.{parts[shortcut]}" if shortcut else f"layer.{int(number) - 1}.{parts[part]}"
    return f"encoder.stages.{int(stage) - 1}.layers.{layer}.{inner}.{leaf}"


def preprocessor(preprocessing: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """Return the `preprocessor_config.json` that crops and normalises as an evaluation here does.

    Args:
      preprocessing: "size", "crop", "mean" and "std" of the model card.

    Raises:
      UserError: views that are not square, which no preprocessor crops in this way.
    """
    size = preprocessing["size"]
    if not isinstance(size, int):
        raise UserError(
            f"--format=hf: views of {size} pixels; transformers' preprocessors crop squares: use "
            "--format=safetensors"
        )
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": channels == 3,
        "do_resize": True,
        "size": {"shortest_edge": round(size / preprocessing["crop"])},
        "resample": 2,  # bilinear
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": preprocessing["mean"],
        "image_std": preprocessing["std"],
    }


def _unsupported(what: str) -> UserError:
    return UserError(
        f"--format=hf: transformers has no network with {what}; use --format=safetensors or timm"
    )
