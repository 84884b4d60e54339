"""Networks in the files of public releases: finding them, and renaming their tensors to timm's
names.

A network is recognised by the tensors that it contains, under any prefix:
`state_dict.module.encoder_q.conv1.weight` is the first layer of a residual network, like
`conv1.weight`. So the releases of MoCo v1 to v3, SwAV, BYOL, Barlow Twins, DINO, DINOv2, iBOT, MAE,
SimMIM, BEiT and OpenCLIP need no list of prefixes, but the names of the heads beside the network do
(`HEADS`). docs/weights.md has the table. The names of Hugging Face and mmpretrain are in
`huggingface`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ssl_jax.core.errors import UserError, suggest
from ssl_jax.weights import convnext, efficientnet, heads, huggingface
from ssl_jax.weights.places import Arrays, layers, under
from ssl_jax.weights.torchvision import to_timm
from ssl_jax.weights.vit import TABLE

# Layout -> names of tensors that its networks have; the first one locates the network.
SIGNATURES: Mapping[str, tuple[str, ...]] = {
    "resnet": ("layer1.0.conv1.weight", "conv1.weight", "bn1.running_mean"),
    "resnet_children": ("4.0.conv1.weight", "0.weight", "1.running_mean"),
    "swin": ("layers.0.blocks.0.attn.qkv.weight", "patch_embed.proj.weight"),
    "convnext": ("stages.0.blocks.0.conv_dw.weight", "stem.0.weight"),
    "convnext_authors": ("stages.0.0.dwconv.weight", "downsample_layers.0.0.weight"),
    "torchvision_convnext": ("features.1.0.block.5.weight", "features.0.0.weight"),
    "huggingface_convnext": (
        "encoder.stages.0.layers.0.dwconv.weight",
        "embeddings.patch_embeddings.weight",
    ),
    "efficientnet": ("blocks.0.0.conv_dw.weight", "conv_stem.weight", "conv_head.weight"),
    "torchvision_efficientnet": ("features.1.0.block.1.fc1.weight", "features.0.0.weight"),
    "vit": ("patch_embed.proj.weight", "norm.weight"),
    "clip": ("transformer.resblocks.0.attn.in_proj_weight", "class_embedding", "conv1.weight"),
    "torchvision_vit": ("encoder.layers.encoder_layer_0.ln_1.weight", "conv_proj.weight"),
    "huggingface_vit": (
        "encoder.layer.0.attention.attention.query.weight",
        "embeddings.patch_embeddings.projection.weight",
        "layernorm.weight",
    ),
    "huggingface_clip": (
        "encoder.layers.0.self_attn.q_proj.weight",
        "embeddings.patch_embedding.weight",
        "embeddings.class_embedding",
        "embeddings.position_embedding.weight",
    ),
    "huggingface_resnet": (
        "encoder.stages.0.layers.0.layer.0.convolution.weight",
        "embedder.embedder.convolution.weight",
    ),
    "mmpretrain_vit": ("layers.0.ffn.layers.0.0.weight", "patch_embed.projection.weight"),
}
FAMILY = {  # the other layouts are ViTs
    "resnet": "resnet",
    "resnet_children": "resnet",
    "huggingface_resnet": "resnet",
    "swin": "swin",
    **dict.fromkeys(
        ("convnext", "convnext_authors", "torchvision_convnext", "huggingface_convnext"),
        "convnext",
    ),
    **dict.fromkeys(("efficientnet", "torchvision_efficientnet"), "efficientnet"),
}
# Layout -> settings of all its networks that neither shapes nor names show.
CUSTOMS: Mapping[str, Mapping[str, Any]] = {
    "huggingface_vit": {"norm_eps": 1e-12},
    "huggingface_clip": {"norm_eps": 1e-5},
    "clip": {"norm_eps": 1e-5},
}
# Words in the names of modules that are beside a backbone or follow it, so that its features do not
# depend on them. A module whose name has none of these words is part of the network.
BESIDE = re.compile(
    r"(^|_)(head|heads|fc|classifiers?|projectors?|projection|projections|predictors?|prediction"
    r"|prototypes?|decoder|queue|pooler|probe|linear|logits?|lm|mask|masked|neck|center|centers"
    r"|memory|bank|loss|criterion|aux|mlp|last|contrastive|text|optimizer)(_|\d|$)"
)
INSIDE = re.compile(r"^(?!decoder).*(norm|pos|pool$|dist(_|$))")  # exceptions from `BESIDE`
AVERAGE = re.compile(r"teacher|target|momentum|(^|_)ema(_|$)|(^|_)k$|average")
COUNTERS = ("num_batches_tracked", "relative_position_index", "attn_mask", "position_ids")
HeadReader = Callable[[Arrays], dict[str, np.ndarray]]


def _named(name: str, reader: HeadReader) -> Callable[[Arrays], dict[str, dict[str, np.ndarray]]]:
    return lambda tensors: {name: reader(tensors)}


def _fc(tensors: Arrays) -> dict[str, dict[str, np.ndarray]]:
    """Read a single layer as a classifier, several layers as a projector."""
    return {"classifier" if "weight" in tensors else "projector": heads.perceptron(tensors)}


def _head(tensors: Arrays) -> dict[str, dict[str, np.ndarray]]:
    prototypes = heads.dino(tensors)
    return {"head": prototypes} if prototypes else _fc(tensors)


# Prefix of the heads' names, in the network or in the module around it -> their reader.
HEADS: Mapping[str, Callable[[Arrays], dict[str, dict[str, np.ndarray]]]] = {
    "fc.": _fc,
    "head.": _head,
    "dino_head.": _named("head", heads.dino),
    "ibot_head.": _named("patch_head", heads.dino),
    "projector.": _named("projector", heads.perceptron),
    "projection_head.": _named("projector", heads.perceptron),
    "predictor.": _named("predictor", heads.perceptron),
    "prediction_head.": _named("predictor", heads.perceptron),
    "prototypes.": _named("prototypes", heads.prototypes),
    "decoder.0.": _named("decoder", heads.pixel_decoder),
}


@dataclass(frozen=True)
class Network:
    """A network in a file.

    Attributes:
      prefix: prefix of its names.
      layout: a key of `SIGNATURES`.
      average: the network is the moving average of another one: a teacher, a key encoder.
      tensors: tensors by timm's names.
      heads: our name of each network beside it -> its variables by our paths.
      read: names in the file of the tensors that `heads` are made of.
    """

    prefix: str
    layout: str
    average: bool
    tensors: Arrays
    heads: Mapping[str, Arrays] = field(default_factory=dict)
    read: frozenset[str] = frozenset()

    @property
    def family(self) -> str:
        return FAMILY.get(self.layout, "vit")


def is_beside(name: str) -> bool:
    """Tell whether a tensor, named relative to the network, belongs to none of its modules."""
    first = name.split(".")[0]
    return bool(BESIDE.search(first)) and not INSIDE.search(first)


def find(tensors: Arrays, layout: str = "", prefix: str | None = None) -> list[Network]:
    """Find the networks of a file: one, or a trained one followed by its average.

    Args:
      layout: look for this layout only, a key of `SIGNATURES`.
      prefix: choose the network with this prefix.

    Raises:
      UserError: an unknown layout; no network, or several of which none is another's average.
    """
    if layout and layout not in SIGNATURES:
        raise UserError(f"--layout={layout}: {suggest(layout, SIGNATURES)}")
    roots = _roots(tensors, layout)
    if prefix is not None:
        if roots and prefix not in roots:
            raise UserError(f"--prefix={prefix}: no such network; {suggest(prefix, roots)}")
        roots = {root: kind for root, kind in roots.items() if root == prefix}
    if not roots:
        examples = ", ".join(list(tensors)[:3]) or "none"
        raise UserError(
            f"no network of a known layout ({', '.join(SIGNATURES)}); the file has names like "
            f"{examples}"
        )
    averages = [root for root in roots if any(map(AVERAGE.search, root.split(".")))]
    trained = [root for root in roots if root not in averages]
    if len(averages) > 1 or len(trained) > 1:
        raise UserError(
            f"several networks, {', '.join(map(repr, sorted(roots)))}; choose one with --prefix=..."
        )
    order = [*trained, *averages]
    return [_network(tensors, root, roots[root], root in averages, order) for root in order]


def _roots(tensors: Arrays, layout: str) -> dict[str, str]:
    """Find the networks: prefix -> layout."""
    roots: dict[str, str] = {}
    for kind, (mark, *others) in SIGNATURES.items():
        if layout not in ("", kind):
            continue
        for name in tensors:
            root = name.removesuffix(mark)
            whole = name.endswith(mark) and root[-1:] in ("", ".")
            if whole and root not in roots and _has(tensors, root, others):
                roots[root] = kind
    return roots


def _has(tensors: Arrays, root: str, names: list[str]) -> bool:
    """Tell whether all these tensors are present; the norm may come after the pooling."""
    either = {"norm.weight": "fc_norm.weight"}
    return all(root + n in tensors or root + either.get(n, n) in tensors for n in names)


def _network(tensors: Arrays, root: str, layout: str, average: bool, roots: list[str]) -> Network:
    inside = under(tensors, root)
    outer = root[: root.rstrip(".").rfind(".") + 1]
    # If both networks are in the same module, the average's heads have a prefix of their own.
    beside = outer + "momentum_" * (average and sum(r.startswith(outer) for r in roots) > 1)
    out: dict[str, Arrays] = {}
    read: set[str] = set()
    for prefix in dict.fromkeys((root, beside)):
        for start, reader in HEADS.items():
            part = _without_counters(under(tensors, prefix + start))
            for name, variables in (reader(part) if part else {}).items():
                if variables and name not in out:
                    out[name] = variables
                    # iBOT has a second last layer, for patches, on the same perceptron.
                    read |= {prefix + start + k for k in part if not k.startswith("last_layer2")}
    if _is_momentum_contrast(root) and "classifier" in out:
        out["projector"] = out.pop("classifier")
    if decoder := heads.mae_decoder(inside):
        out["decoder"] = decoder
        read |= {root + k for k in inside if k.startswith("decoder_") or k == "mask_token"}
    if layout == "clip" and root.endswith("visual."):
        text = {k: v for k, v in under(tensors, outer).items() if not k.startswith("visual.")}
        out |= heads.clip(text | {k: v for k, v in inside.items() if k == "proj"})
        read |= {outer + k for k in text} | {root + "proj"}
    return Network(
        root, layout, average, RENAME[layout](_without_counters(inside)), out, frozenset(read)
    )


def _without_counters(tensors: Arrays) -> Arrays:
    return {k: v for k, v in tensors.items() if not k.endswith(COUNTERS)}


def _is_momentum_contrast(root: str) -> bool:
    """Tell whether the network is MoCo's, whose one-layer projector is named like a classifier."""
    return any(part in ("encoder_q", "encoder_k") for part in root.split("."))


def _resnet_children(tensors: Arrays) -> dict[str, np.ndarray]:
    """Rename a Sequential of a ResNet's children: "0." is the first convolution, "4." the first
    stage.
    """
    children = {"0": "conv1", "1": "bn1", **{str(s + 3): f"layer{s}" for s in range(1, 5)}}
    split = {name: name.split(".", 1) for name in tensors if "." in name}
    return {
        f"{children[split[n][0]]}.{split[n][1]}" if n in split and split[n][0] in children else n: x
        for n, x in tensors.items()
    }


def _vit(tensors: Arrays) -> dict[str, np.ndarray]:
    """Rename the tensors of DINO, MAE, BEiT, SimMIM and DINOv2 to timm's names."""
    out: dict[str, np.ndarray] = {}
    chunked = any(name.startswith("blocks.0.0.") for name in tensors)
    for name, array in tensors.items():
        if chunked:  # DINOv2 trains blocks in chunks, in which each block keeps its number
            name = re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name)
        name = re.sub(r"\.gamma_([12])$", r".ls\1.gamma", name)
        name = re.sub(r"\.mlp\.w12\.", ".mlp.fc1.", name)
        name = re.sub(r"\.mlp\.w3\.", ".mlp.fc2.", name)
        name = {"masked_embed": "mask_token", "register_tokens": "reg_token"}.get(name, name)
        out[name] = array
    if layers(tensors, "decoder_blocks."):
        out.pop("mask_token", None)  # the decoder's
    if "mask_token" in out:
        out["mask_token"] = out["mask_token"].reshape(1, 1, -1)
    for name in [name for name in out if name.endswith(".attn.q_bias")]:
        start = name.removesuffix("q_bias")
        q, v = out.pop(name), out.pop(f"{start}v_bias")
        out[f"{start}qkv.bias"] = np.concatenate([q, out.pop(f"{start}k_bias", 0 * q), v])
    return _one_table(out)


def _one_table(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Merge the blocks' tables of relative positions into a shared one, if they are equal."""
    names = [name for name in tensors if name.endswith(".attn.relative_position_bias_table")]
    if not names or TABLE in tensors:
        return tensors
    if any(not np.array_equal(tensors[name], tensors[names[0]]) for name in names[1:]):
        return tensors
    shared = tensors[names[0]]
    return {k: v for k, v in tensors.items() if k not in names} | {TABLE: shared}


def _swin(tensors: Arrays) -> dict[str, np.ndarray]:
    """Move the merging of patches from a stage's end, as in the authors' code, to the start of the
    next stage, as in timm's.
    """
    if "layers.0.downsample.reduction.weight" not in tensors:
        return dict(tensors)
    later = lambda m: f"layers.{int(m[1]) + 1}.downsample."  # noqa: E731
    return {re.sub(r"^layers\.(\d+)\.downsample\.", later, k): v for k, v in tensors.items()}


def _clip(tensors: Arrays) -> dict[str, np.ndarray]:
    """Rename CLIP's image tower, whose patch embedding has no bias, to timm's names."""
    out = heads.clip_blocks(tensors)
    for name, array in tensors.items():
        for theirs, ours in CLIP_TOP.items():
            if name.startswith(theirs):
                out[ours + name.removeprefix(theirs)] = array
                break
        else:
            if not name.startswith("transformer.resblocks.") and name != "proj":
                out[name] = array
    out["cls_token"] = out["cls_token"].reshape(1, 1, -1)
    out["pos_embed"] = out["pos_embed"][None]
    return out


CLIP_TOP = {
    "ln_pre.": "norm_pre.",
    "ln_post.": "norm.",
    "conv1.": "patch_embed.proj.",
    "class_embedding": "cls_token",
    "positional_embedding": "pos_embed",
}


RENAME: Mapping[str, Callable[[Arrays], dict[str, np.ndarray]]] = {
    "resnet": dict,
    "resnet_children": _resnet_children,
    "vit": _vit,
    "swin": _swin,
    "clip": _clip,
    "torchvision_vit": to_timm,
    "huggingface_vit": huggingface.vit,
    "huggingface_clip": huggingface.clip,
    "huggingface_resnet": huggingface.resnet,
    "mmpretrain_vit": huggingface.mmpretrain,
    "convnext": convnext.from_timm,
    "convnext_authors": convnext.from_authors,
    "torchvision_convnext": convnext.from_torchvision,
    "huggingface_convnext": convnext.from_transformers,
    "efficientnet": dict,
    "torchvision_efficientnet": efficientnet.from_torchvision,
}
