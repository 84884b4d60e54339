"""Networks applied one after the other: backbone, projector, predictor, or backbone, classifier."""

from dataclasses import dataclass
from typing import Any

import jax

from ssl_jax.core import rng
from ssl_jax.nets.functional import Net, output_shapes

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class Branch:
    """A chain of named networks; the first is a backbone, whose "pooled" features the second one
    reads.

    Attributes:
      nets: (name, network) in order.
      microbatches: the backbone runs in so many chunks, each recomputed in the backward pass. The
        gradient stays exact for every loss over the whole batch, except through batch norm, whose
        statistics become those of a chunk.
    """

    nets: tuple[tuple[str, Net], ...]
    microbatches: int = 1

    def init(self, key: Array) -> tuple[Tree, Tree]:
        """Fresh (params, stats), one entry a network."""
        made = {name: net.init(rng.named(key, name)) for name, net in self.nets}
        return {k: v[0] for k, v in made.items()}, {k: v[1] for k, v in made.items()}

    def apply(
        self, params: Tree, stats: Tree, images: Array, *, train: bool = True
    ) -> tuple[dict[str, Any], Tree]:
        """Outputs by name, and the new statistics. `images` (N, H, W, C) normalised floats.

        The backbone's entry is its dict of features, the others' are (N, D) arrays.
        """
        out, stats, x = {}, dict(stats), images
        for i, (name, net) in enumerate(self.nets):
            chunks = self.microbatches if i == 0 else 1
            y, stats[name] = net.apply(
                params[name], stats[name], x, train=train, microbatches=chunks
            )
            out[name] = y
            x = y["pooled"] if i == 0 else y
        return out, stats


def feature_dim(backbone: Net, size: int, channels: int) -> int:
    """Width of the backbone's "pooled" features for images of `size` pixels a side."""
    return output_shapes(backbone, (size, size, channels))["pooled"][0]
