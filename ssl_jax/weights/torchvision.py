"""Renaming between torchvision's and timm's vision transformers. Their residual networks have the
same names.
"""

import re

import numpy as np

from ssl_jax.weights.places import Arrays

TOP = {
    "class_token": "cls_token",
    "encoder.pos_embedding": "pos_embed",
    "conv_proj.": "patch_embed.proj.",
    "encoder.ln.": "norm.",
}
BLOCK = {  # after "encoder.layers.encoder_layer_0."
    "ln_1.": "norm1.",
    "self_attention.in_proj_": "attn.qkv.",
    "self_attention.out_proj.": "attn.proj.",
    "ln_2.": "norm2.",
    "mlp.0.": "mlp.fc1.",
    "mlp.3.": "mlp.fc2.",
}


def to_timm(tensors: Arrays) -> dict[str, np.ndarray]:
    """Rename a state dictionary of torchvision's to timm's names; older files have mlp.linear_1."""
    out = {}
    for name, array in tensors.items():
        name = name.replace("mlp.linear_1.", "mlp.0.").replace("mlp.linear_2.", "mlp.3.")
        match = re.fullmatch(r"encoder\.layers\.encoder_layer_(\d+)\.(.*)", name)
        out[f"blocks.{match[1]}.{_swap(match[2], BLOCK)}" if match else _swap(name, TOP)] = array
    return out


def from_timm(tensors: Arrays) -> dict[str, np.ndarray]:
    """Rename a state dictionary of timm's to torchvision's names."""
    out = {}
    for name, array in tensors.items():
        match = re.fullmatch(r"blocks\.(\d+)\.(.*)", name)
        if match:
            replacement = f"encoder.layers.encoder_layer_{match[1]}.{_swap(match[2], _back(BLOCK))}"
        else:
            replacement = _swap(name, _back(TOP))
        out[replacement] = array
    return out


def _back(names: dict[str, str]) -> dict[str, str]:
    return {ours: theirs for theirs, ours in names.items()}


def _swap(name: str, starts: dict[str, str]) -> str:
    """Replace the first prefix that matches."""
    for prefix, replacement in starts.items():
        if name.startswith(prefix):
            return replacement + name.removeprefix(prefix)
    return name
