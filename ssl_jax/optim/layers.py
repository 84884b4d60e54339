"""Layer-wise learning rates: the nearer a layer is to the image, the lower its rate.

The rule of ELECTRA (2003.10555), BEiT (2106.08254) and MAE (2111.06377): layer i of L has the rate
of the head times decay^(L + 1 - i). Embeddings (patches, positions, tokens) are layer 0, block i is
layer i + 1; the last norm and everything outside the backbone have the head's rate.
"""

import re
from dataclasses import dataclass

import numpy as np

from ssl_jax.core import tree
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import Tree

EMBEDDINGS = re.compile(
    r"backbone/(stem|patch_embed|patch_norm|pos_embed|cls_token|mask_token|registers|norm_pre)\b"
)
MERGE = re.compile(r"backbone/merge(\d+)/")
# A ViT's scanned blocks, the block pairs of a Swin's stage, or a ResNet's stage.
STAGE = re.compile(r"backbone/(?:(?:stage(\d+)/)?blocks/(?!\d)(?:(straight|shifted))?|stage(\d+)/)")


@dataclass(frozen=True)
class _Place:
    """Place of a parameter: in the layers `within` (from 0) of a stage of `depth` layers."""

    stage: int
    depth: int
    within: np.ndarray


def layer_ids(shapes: Tree) -> tuple[dict[str, np.ndarray], int]:
    """Return the layer of each parameter by its path, and that of the head, L + 1.

    The layers of a scanned leaf have shape (depth, 1, ...), to multiply it with; the others are
    scalars. A layer of a ResNet is a stage, as its blocks are many and its stages few.

    Args:
      shapes: the parameters of all networks, or their shapes, a nested dict; those under "backbone"
        have the names of `nets`.

    Raises:
      UserError: the backbone has no layers of known names.
    """
    leaves = tree.named_leaves(shapes)
    places = {path: _place(path, leaf.shape) for path, leaf in leaves.items()}
    depths = {place.stage: place.depth for place in places.values() if place is not None}
    if not depths:
        raise UserError(
            "optim.layer_decay: this backbone has no layers of known names; set it to 1"
        )
    before = {stage: sum(d for s, d in depths.items() if s < stage) for stage in depths}
    head = sum(depths.values()) + 1

    def layer(path: str) -> np.ndarray:
        place, merge = places[path], MERGE.match(path)
        if place is not None:
            return before[place.stage] + 1 + place.within
        if merge:  # with the last block before it (SimMIM)
            stage = int(merge[1])
            return np.array(before[stage] + depths[stage])
        return np.array(0 if EMBEDDINGS.match(path) else head)

    return {path: layer(path) for path in leaves}, head


def multipliers(shapes: Tree, decay: float) -> dict[str, np.ndarray]:
    """Map path -> factor of the learning rate, decay^(L + 1 - layer); see `layer_ids`."""
    ids, head = layer_ids(shapes)
    return {path: decay ** (head - layer) for path, layer in ids.items()}


def _place(path: str, shape: tuple[int, ...]) -> _Place | None:
    match = STAGE.match(path)
    if match is None:
        return None
    if match[3]:
        return _Place(int(match[3]), 1, np.array(0))
    each = 2 if match[2] else 1  # of a pair the straight block is first
    first = int(match[2] == "shifted")
    within = np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)) * each + first
    return _Place(int(match[1] or 0), shape[0] * each, within)
