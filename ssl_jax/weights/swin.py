"""Swin transformers by timm's names; ours scan pairs of blocks, a straight and a shifted one, and
name the last block of an odd depth by its number.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ssl_jax.nets.backbones.swin import SIZES
from ssl_jax.weights.places import Arrays, Layout, Place, layers
from ssl_jax.weights.vit import BLOCK, FIRST, TOP

OTHERS: Mapping[str, tuple[str, Layout]] = {
    **TOP,
    "patch_norm/scale": ("patch_embed.norm.weight", "same"),
    "patch_norm/bias": ("patch_embed.norm.bias", "same"),
}
TABLE = "attn.relative_position_bias_table"
INNER: Mapping[str, tuple[str, Layout]] = {**BLOCK, "table": (TABLE, "same")}


def place(path: str, shape: tuple[int, ...]) -> Place:
    """Return the place of a path below the backbone, "stage1/blocks/straight/attn/qkv/kernel"."""
    first, _, rest = path.partition("/")
    if first.startswith("merge"):
        start = f"layers.{first.removeprefix('merge')}.downsample"
        if rest == "reduce/kernel":
            return Place((f"{start}.reduction.weight",), "linear")
        return Place((f"{start}.norm.{'weight' if rest.endswith('scale') else 'bias'}",))
    if not first.startswith("stage"):
        name, layout = OTHERS[path]
        return Place((name,), layout)
    block, kind, leaf = rest.split("/", 2)
    name, layout = INNER[leaf]
    start = f"layers.{int(first.removeprefix('stage')) - 1}.blocks"
    numbers: Sequence[int] = range(int(kind.startswith("shifted")), 2 * shape[0], 2)
    if block != "blocks":
        numbers = (int(block.removeprefix("block")),)
    return Place(tuple(f"{start}.{i}.{name}" for i in numbers), layout, stacked=True)


def infer(tensors: Arrays, options: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Infer the section `backbone` and the number of channels from names and shapes; `options` are
    the known keys of that section.

    The image size is taken to be that of a single window at the last stage.
    """
    del options
    dim, channels, patch, _ = tensors[FIRST].shape
    stages = range(layers(tensors, "layers."))
    depths = tuple(layers(tensors, f"layers.{s}.blocks.") for s in stages)
    tables = [tensors[f"layers.{s}.blocks.0.{TABLE}"].shape for s in stages]
    heads, window = tuple(heads for _, heads in tables), (round(tables[0][0] ** 0.5) + 1) // 2
    size = next((name for name, value in SIZES.items() if value == (dim, depths, heads)), None)
    section: dict[str, Any] = {"name": "swin", "patch": patch, "window": window}
    section |= {"image_size": window * patch * 2 ** (len(depths) - 1)}
    section |= {"size": size} if size else dict(size=None, dim=dim, depths=depths, heads=heads)
    return section | ({"mask_token": True} if "mask_token" in tensors else {}), channels
