"""Layer-wise learning rates: the nearer a layer is to the image, the lower its rate.

The rule of ELECTRA (2003.10555), BEiT (2106.08254) and MAE (2111.06377): layer i of L has the rate
of the head times decay^(L + 1 - i). What reads the image (patches, positions, tokens) is layer 0;
the last norm and everything outside the backbone have the head's rate. The backbone declares its
layers (`nets.backbone.Backbone.layer_ids`).
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ssl_jax.core import tree
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import Tree

START = "backbone/"  # of the paths that a backbone's layers have


class Layered(Protocol):
    """Layers that a backbone declares; see `nets.backbone.Backbone`."""

    @property
    def num_layers(self) -> int: ...

    def layer_ids(self, path: str) -> int | Sequence[int]: ...


def multipliers(shapes: Tree, decay: float, backbone: Layered | None) -> dict[str, np.ndarray]:
    """Map path -> factor of the learning rate, decay^(L + 1 - layer).

    The factors of a leaf that is stacked over layers have shape (depth, 1, ...), to multiply it
    with; the others are scalars.

    Args:
      shapes: the parameters of all networks, or their shapes, a nested dict.
      backbone: the layers of those under "backbone".

    Raises:
      UserError: the backbone declares no layers.
    """
    if backbone is None or not backbone.num_layers:
        raise UserError(
            "optim.layer_decay: this backbone has no layers of known names; set it to 1"
        )
    head, out = backbone.num_layers + 1, {}
    for path, leaf in tree.named_leaves(shapes).items():
        below = path.removeprefix(START)
        layers = np.asarray(head if below == path else backbone.layer_ids(below))
        if layers.ndim:
            layers = layers.reshape(-1, *[1] * (len(leaf.shape) - 1))
        out[path] = decay ** (head - layers)
    return out
