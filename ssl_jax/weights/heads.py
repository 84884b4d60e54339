"""What lies beside the backbone in public files: perceptrons, prototypes, decoders, CLIP's text."""

import re
from collections.abc import Mapping

import numpy as np

from ssl_jax.weights.places import Arrays, layers, take, under
from ssl_jax.weights.vit import BLOCK, block_place

NUMBERED = re.compile(r"(\d+)\.(weight|bias|running_mean|running_var)")
NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def perceptron(tensors: Arrays) -> dict[str, np.ndarray]:
    """A `nets.heads.mlp_head` from a PyTorch Sequential of linear layers and batch norms
    ("0.weight", "1.running_mean", ...), or from one linear layer ("weight"); else {}.
    """
    if "weight" in tensors:
        tensors = {f"0.{name}": array for name, array in tensors.items()}
    found = {m[0]: (int(m[1]), m[2]) for name in tensors if (m := NUMBERED.fullmatch(name))}
    norms = {i for i, leaf in found.values() if leaf == "running_mean"}
    linears = sorted({i for i, leaf in found.values() if leaf == "weight"} - norms)
    out = {}
    for name, (i, leaf) in found.items():
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
    """(out, in), of a 1x1 convolution too."""
    return weight.reshape(weight.shape[:2]) if weight.shape[2:] == (1, 1) else weight


def dino(tensors: Arrays) -> dict[str, np.ndarray]:
    """A `nets.heads.dino_head` from DINO's, iBOT's and DINOv2's; {} where it is none."""
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
    """A `nets.decoders.mae_decoder` from MAE's; {} where there is none."""
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
    """A `nets.decoders.pixel_decoder` from SimMIM's 1x1 convolution; {} where there is none."""
    weight = tensors.get("weight")
    if weight is None or weight.shape[2:] != (1, 1):
        return {}
    return {"linear/kernel": matrix(weight).T, "linear/bias": tensors["bias"]}


def prototypes(tensors: Arrays) -> dict[str, np.ndarray]:
    """SwAV's, (K, D) under ""; {} where there are several sets of them, or none."""
    return {"": tensors["weight"]} if set(tensors) == {"weight"} else {}


def clip(tensors: Arrays) -> dict[str, dict[str, np.ndarray]]:
    """Text tower, projections and temperature of CLIP, by the names of our networks."""
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


# Of CLIP's blocks, in this order.
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
    """The blocks of one of CLIP's transformers by timm's names."""
    out = {}
    for name, array in tensors.items():
        if name.startswith("transformer.resblocks."):
            for theirs, ours in CLIP_NAMES.items():
                name = name.replace(theirs, ours)
            out[name] = array
    return out


def blocks(tensors: Arrays, depth: int, prefix: str = "") -> dict[str, np.ndarray]:
    """Stacked blocks from those named "PREFIXblocks.0.", ..., without what they lack."""
    places = {path: block_place(path, depth, f"{prefix}blocks.") for path in BLOCK}
    return {
        path: take(tensors, place)
        for path, place in places.items()
        if all(name in tensors for name in place.names)
    }
