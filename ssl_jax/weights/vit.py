"""Vision transformers by timm's names; the blocks of ours are stacked."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.nets.backbones.vit import FIXED_ORDERS, SIZES
from ssl_jax.nets.blocks import swiglu_width
from ssl_jax.nets.positions import resize_grid, sincos
from ssl_jax.weights.places import Arrays, Layout, Place, layers

FIRST = "patch_embed.proj.weight"  # the tensor whose second axis is the channels
TABLE = "rel_pos_bias.relative_position_bias_table"
BLOCK_TABLE = "attn.relative_position_bias_table"
TOP: Mapping[str, tuple[str, Layout]] = {
    "cls_token": ("cls_token", "same"),
    "mask_token": ("mask_token", "same"),
    "pos_embed": ("pos_embed", "same"),
    "registers": ("reg_token", "same"),
    "relative/table": (TABLE, "same"),
    "patch_embed/kernel": ("patch_embed.proj.weight", "conv"),
    "patch_embed/bias": ("patch_embed.proj.bias", "same"),
    "norm_pre/scale": ("norm_pre.weight", "same"),
    "norm_pre/bias": ("norm_pre.bias", "same"),
    "norm/scale": ("norm.weight", "same"),
    "norm/bias": ("norm.bias", "same"),
}
NORM: Mapping[str, tuple[str, Layout]] = {"scale": ("weight", "same"), "bias": ("bias", "same")}
LINEAR: Mapping[str, tuple[str, Layout]] = {
    "kernel": ("weight", "linear"),
    "bias": ("bias", "same"),
}
MODULES = {
    **{f"norm{i}": NORM for i in (1, 2)},
    **dict.fromkeys(("attn/qkv", "attn/proj", "mlp/fc1", "mlp/fc2"), LINEAR),
}
BLOCK: Mapping[str, tuple[str, Layout]] = {
    **{
        f"{module}/{ours}": (f"{module.replace('/', '.')}.{theirs}", layout)
        for module, leaves in MODULES.items()
        for ours, (theirs, layout) in leaves.items()
    },
    "gamma1": ("ls1.gamma", "same"),
    "gamma2": ("ls2.gamma", "same"),
}
SAME = 1e-4  # a table of positions that differs by less from a fixed one is taken for it
# Width -> number of heads in all published networks of our kind. For other widths, the user must
# set it, as the shapes do not depend on it. The smallest has one head of 64 channels.
PUBLISHED_HEADS = {
    64: 1,
    192: 3,  # DeiT, timm: Ti
    384: 6,  # S; but MoCo v3's has 12, see `infer`
    512: 8,  # DeiT III, timm: M
    640: 10,  # timm: betwixt
    768: 12,  # B
    832: 13,  # timm: so150m2
    896: 14,  # OpenCLIP: B+
    1024: 16,  # L
    1152: 16,  # so400m
    1280: 16,  # H
    1408: 16,  # g of EVA and of I-JEPA
    1536: 24,  # g of DINOv2
    1664: 16,  # G
}
DISAGREE = {(768, 2304)}  # (width, hidden width): timm's first small ViT has 8 heads


def place(path: str, shape: tuple[int, ...]) -> Place:
    """Return the place of a variable of this path below the backbone, "blocks/attn/qkv/kernel",
    and of this shape.
    """
    if path.startswith("blocks/"):
        return block_place(path.removeprefix("blocks/"), shape[0], "blocks.")
    if path == "relative/table" and len(shape) == 3:
        return Place(tuple(f"blocks.{i}.{BLOCK_TABLE}" for i in range(shape[0])), stacked=True)
    name, layout = TOP[path]
    return Place((name,), layout)


def block_place(path: str, depth: int, prefix: str) -> Place:
    """Return the place of a path below stacked blocks, "attn/qkv/kernel"."""
    name, layout = BLOCK[path]
    return Place(tuple(f"{prefix}{i}.{name}" for i in range(depth)), layout, stacked=True)


def fitted(tensors: Arrays, like: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Rename the last norm to "norm", and resize the positions to the grid of the network whose
    variables have the shapes `like`: bicubic and antialiased like timm's `resample_abs_pos_embed`,
    relative positions like the network itself (`nets.positions`).

    A table without a row for the class token gets a row of zeros; without a class token, the row is
    dropped.
    """
    out = dict(tensors)
    if "norm.weight" not in out:  # the norm is after the pooling
        out = {k.replace("fc_norm.", "norm."): v for k, v in out.items()}
    if "pos_embed" in out and "pos_embed" in like and out["pos_embed"].ndim == 3:
        out["pos_embed"] = _table(
            out["pos_embed"], like["pos_embed"][1], int("cls_token" in like), "cls_token" in out
        )
    if "relative/table" in like:
        extra, length = 3 * int("cls_token" in like), like["relative/table"][-2]
        for name in [name for name in out if name == TABLE or name.endswith(BLOCK_TABLE)]:
            out[name] = _relative(out[name], length, extra)
    return out


def _table(table: np.ndarray, length: int, own: int, with_class: bool) -> np.ndarray:
    """Resize a table (1, T, D) to (1, length, D); the first `own` rows (0 or 1) are the class
    token's.
    """
    count, dim = table.shape[1:]
    if count == length:
        return table
    first = int(with_class and _side(count) is None and _side(count - 1) is not None)
    old, new = _side(count - first), _side(length - own)
    if old is None or new is None:
        return table
    head, grid = table[:, :first], table[:, first:]
    if old != new:
        grid = grid.reshape(old, old, dim).astype(np.float32)
        resized = jax.image.resize(grid, (new, new, dim), "bicubic", antialias=True)
        grid = np.asarray(resized).reshape(1, new * new, dim)
    if first < own:
        head = np.zeros((1, 1, dim), table.dtype)
    return np.concatenate([head[:, :own], grid], axis=1) if own else grid


def _relative(table: np.ndarray, length: int, extra: int) -> np.ndarray:
    """Resize a table (offsets, heads) to `length` rows, `extra` of which are not of the grid."""
    old, new = _side(len(table) - extra), _side(length - extra)
    if old is None or new is None or len(table) == length:
        return table
    count = len(table) - extra
    patches = jnp.asarray(table[None, :count], jnp.float32)
    grid = np.asarray(resize_grid(patches, (old, old), (new, new))[0])
    return np.concatenate([grid, table[count:]])


def _side(count: int) -> int | None:
    side = round(count**0.5) if count > 0 else 0
    return side if side and side * side == count else None


def fixed_position(table: np.ndarray, with_class: bool) -> str | None:
    """Recognise a fixed table (1, T, D): return the value of `backbone.position`, or None."""
    count, dim = table.shape[1:]
    side = _side(count - with_class)
    if side is None or dim % 4:
        return None
    for name, order in FIXED_ORDERS.items():
        if np.abs(sincos(dim, (side, side), order, with_class) - table[0]).max() < SAME:
            return name
    return None


def infer(tensors: Arrays, options: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Infer the section `backbone` and the number of channels from names and shapes; `options` are
    the known keys of that section.

    Shapes do not show the number of heads: it is that of the published networks of this width and
    kind (`PUBLISHED_HEADS`). Nor do they show the nonlinearity: it is GELU, unless a norm comes
    before the blocks, as in CLIP's, which are published with both.

    Raises:
      UserError: positions of a grid that is not square, or a number of heads or a nonlinearity that
        cannot be inferred, without the option that sets it.
    """
    dim, channels, patch, _ = tensors["patch_embed.proj.weight"].shape
    hidden = tensors["blocks.0.mlp.fc2.weight"].shape[1]
    swiglu = tensors["blocks.0.mlp.fc1.weight"].shape[0] == 2 * hidden
    depth, with_class = layers(tensors, "blocks."), "cls_token" in tensors
    section: dict[str, Any] = {"patch": patch}
    tables = {"relative": TABLE, "relative_per_block": f"blocks.0.{BLOCK_TABLE}"}
    if position := next((name for name, table in tables.items() if table in tensors), None):
        offsets, heads = tensors[tables[position]].shape
        side = ((_side(offsets - 3 * with_class) or 0) + 1) // 2
        section["position"] = position
    else:
        table = tensors.get("pos_embed", np.zeros((1, 0, dim)))
        first = int(with_class and _side(table.shape[1]) is None)
        side = _side(table.shape[1] - first) or 0
        usual = 0 if (dim, hidden) in DISAGREE else PUBLISHED_HEADS.get(dim, 0)
        fixed = fixed_position(table, bool(first))
        if fixed == "sincos_mocov3" and dim != 768:  # MoCo v3's small one is not DeiT's
            usual = 12 if dim == 384 else 0
        heads = options.get("heads", usual)
        section |= {"position": fixed} if fixed else {}
    size = options.get("image_size")
    if not side and (size is None or isinstance(size, int)):
        raise UserError(
            "the table of positions is not that of a square grid of patches; set "
            "--config.backbone.image_size to (HEIGHT,WIDTH)"
        )
    section["image_size"] = side * patch if size is None or isinstance(size, int) else tuple(size)
    if not heads:
        raise UserError(
            f"shapes do not show the number of heads for width {dim}; set --config.backbone.heads"
        )
    if "norm_pre.weight" in tensors and not swiglu and "mlp" not in options:
        raise UserError(
            "shapes do not show the nonlinearity of CLIP's blocks; set --config.backbone.mlp to "
            "quick_gelu for OpenAI's weights, to gelu for most others"
        )
    sizes = {name: value for name, value in SIZES.items() if value[:2] == (dim, depth)}
    ratio = hidden / dim
    if swiglu:
        if options.get("mlp", "swiglu") != "swiglu":
            raise UserError(
                f"the perceptrons in the file are gated (swiglu), but backbone.mlp is "
                f"{options['mlp']!r}"
            )
        section["mlp"] = "swiglu"
        ratio = 4.0 if swiglu_width(4 * dim) == hidden else 1.5 * hidden / dim
    size = next((name for name, value in sizes.items() if value[3] == ratio), None)
    named = {"size": size, "dim": dim, "depth": depth, "heads": heads, "mlp_ratio": ratio}
    section |= {"size": size} if size else named
    section |= {"heads": heads} if size and SIZES[size][2] != heads else {}
    section |= {} if with_class else {"cls_token": False, "pool": "avg"}
    if "norm.weight" not in tensors:
        section |= {"pool": "avg", "norm_after_pool": True}
    section |= {"mask_token": True} if "mask_token" in tensors else {}
    section |= {"layer_scale": 1e-5} if "blocks.0.ls1.gamma" in tensors else {}
    section |= {} if "blocks.0.attn.qkv.bias" in tensors else {"qkv_bias": False}
    section |= {"registers": tensors["reg_token"].shape[1]} if "reg_token" in tensors else {}
    section |= {"pre_norm": True, "norm_eps": 1e-5} if "norm_pre.weight" in tensors else {}
    return {"name": "vit"} | section, channels
