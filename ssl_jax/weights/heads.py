"""Networks beside the backbone in public files: perceptrons, prototypes, decoders, CLIP's text
tower.
"""

import re
from collections.abc import Mapping

import numpy as np

from ssl_jax.weights.places import Arrays, layers, take, under
from ssl_jax.weights.vit import BLOCK, block_place

NUMBERED = re.compile(r"(\d+)\.(weight|bias|running_mean|running_var)")
NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def perceptron(tensors: Arrays) -> dict[str, np.ndarray]:
    """Convert a PyTorch Sequential of linear layers and batch norms ("0.weight",
    "1.running_mean", ...), or a single linear layer ("weight"), to a `nets.heads.mlp_head`. {} for
    other layers.
    """
    if "weight" in tensors:
        tensors = {f"0.{name}": array for name, array in tensors.items()}
    leaves = {m[0]: (int(m[1]), m[2]) for name in tensors if (m := NUMBERED.fullmatch(name))}
    norms = {i for i, leaf in leaves.values() if leaf == "running_mean"}
    linears = sorted({i for i, leaf in leaves.values() if leaf == "weight"} - norms)
    out = {}
    for name, (i, leaf) in leaves.items():
        number = sum(first <= i for first in linears)  # a norm goes with the layer before it
        if i in norms:
            out[f"norm{number}/{NORM[leaf]}"] = tensors[name]
        elif leaf == "weight":
            if tensors[name].ndim < 2:
                return {}
            out[f"linear{number}/kernel"] = matrix(tensors[name]).T
        else:
            out[f"linear{number}/bias"] = tensors[name]
    return out


def matrix(weight: np.ndarray) -> np.ndarray:
    """Return a weight as (out, in), also that of a 1x1 convolution."""
    return weight.reshape(weight.shape[:2]) if weight.shape[2:] == (1, 1) else weight


def dino(tensors: Arrays) -> dict[str, np.ndarray]:
    """Convert the head of DINO, iBOT or DINOv2 to a `nets.heads.dino_head`; {} for other heads."""
    stored = (
        ("last_layer.weight_v", "last_layer.weight_g"),
        (
            "last_layer.parametrizations.weight.original1",
            "last_layer.parametrizations.weight.original0",
        ),
    )
    for v, g in stored:
        if v in tensors and g in tensors:
            mlp = perceptron(under(tensors, "mlp."))
            out = {f"mlp/{path}": array for path, array in mlp.items()}
            return out | {"last_layer/v": tensors[v].T, "last_layer/g": tensors[g][:, 0]}
    return {}


def mae_decoder(tensors: Arrays) -> dict[str, np.ndarray]:
    """Convert MAE's decoder to a `nets.decoders.mae_decoder`; {} if there is none."""
    depth = layers(tensors, "decoder_blocks.")
    if not depth:
        return {}
    out = {f"blocks/{path}": array for path, array in blocks(tensors, depth, "decoder_").items()}
    names = {"weight": "kernel", "bias": "bias"}
    for ours, theirs in (("embed", "decoder_embed"), ("pred", "decoder_pred")):
        for name, array in under(tensors, f"{theirs}.").items():
            out[f"{ours}/{names[name]}"] = array.T
    for name, array in under(tensors, "decoder_norm.").items():
        out[f"norm/{NORM[name]}"] = array
    return out | {"mask_token": tensors["mask_token"]}


def pixel_decoder(tensors: Arrays) -> dict[str, np.ndarray]:
    """Convert SimMIM's 1x1 convolution to a `nets.decoders.pixel_decoder`; {} if there is none."""
    weight = tensors.get("weight")
    if weight is None or weight.shape[2:] != (1, 1):
        return {}
    return {"linear/kernel": matrix(weight).T, "linear/bias": tensors["bias"]}


def prototypes(tensors: Arrays) -> dict[str, np.ndarray]:
    """Return SwAV's prototypes (K, D) with the path ""; {} if there are several sets, or none."""
    return {"": tensors["weight"]} if set(tensors) == {"weight"} else {}


def clip(tensors: Arrays) -> dict[str, dict[str, np.ndarray]]:
    """Convert CLIP's text tower, projections and temperature, by the names of our networks."""
    out: dict[str, dict[str, np.ndarray]] = {}
    if "proj" in tensors:  # the image tower's
        out["image_projection"] = {"linear1/kernel": tensors["proj"]}
    if "logit_scale" in tensors:
        out["temperature"] = {"scale": tensors["logit_scale"].reshape(())}
    if "token_embedding.weight" in tensors:
        text = clip_blocks(tensors)
        depth = layers(text, "blocks.")
        out["text"] = {f"blocks/{path}": array for path, array in blocks(text, depth).items()} | {
            "embedding": tensors["token_embedding.weight"],
            "positions": tensors["positional_embedding"],
            "norm/scale": tensors["ln_final.weight"],
            "norm/bias": tensors["ln_final.bias"],
        }
    if "text_projection" in tensors:
        out["text_projection"] = {"linear1/kernel": tensors["text_projection"]}
    return out


# CLIP's names in blocks -> timm's, replaced in this order.
CLIP_NAMES: Mapping[str, str] = {
    "transformer.resblocks.": "blocks.",
    "ln_1.": "norm1.",
    "ln_2.": "norm2.",
    "attn.in_proj_": "attn.qkv.",
    "attn.out_proj.": "attn.proj.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}


def clip_blocks(tensors: Arrays) -> dict[str, np.ndarray]:
    """Rename the blocks of one of CLIP's transformers to timm's names."""
    out = {}
    for name, array in tensors.items():
        if name.startswith("transformer.resblocks."):
            for theirs, ours in CLIP_NAMES.items():
                name = name.replace(theirs, ours)
            out[name] = array
    return out


def blocks(tensors: Arrays, depth: int, prefix: str = "") -> dict[str, np.ndarray]:
    """Stack the blocks "PREFIXblocks.0.", ...; variables that they lack are left out."""
    places = {path: block_place(path, depth, f"{prefix}blocks.") for path in BLOCK}
    return {
        path: take(tensors, place)
        for path, place in places.items()
        if all(name in tensors for name in place.names)
    }
