"""CPC v2: data-efficient image recognition with contrastive predictive coding (1905.09272)."""

from dataclasses import dataclass, replace
from functools import cached_property

import jax

from ssl_jax.core.chain import Chain
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import Count, Positive, Whole
from ssl_jax.nets.functional import Net
from ssl_jax.nets.heads import mlp_head
from ssl_jax.nets.row_context import row_blocks
from ssl_jax.objectives.base import View
from ssl_jax.objectives.cpc import CPC, Direction
from ssl_jax.objectives.parts.networks import Bound, Networks

Array = jax.Array


@dataclass(frozen=True)
class CPCv2(CPC):
    """CPC with larger patches that are each augmented by themselves, in four directions, and with
    scores in a narrow space.

    The paper's listing predicts one direction; how its four directions share the targets' layer is
    not said: here they share it.

    Attributes:
      width: width of the context network's convolutions.
      embedding: width of the space in which predictions and patches are compared.
      scale: factor of the predictions.

    Raises:
      UserError: see `CPC`.
    """

    view: OneCrop = View(260, area=(0.75, 0.75), recipe="flip")
    patch: Count = 80
    stride: Count = 36
    border: Whole = 0
    offsets: tuple[Count, ...] = (3, 4, 5)
    directions: tuple[Direction, ...] = ("down", "left", "up", "right")
    layers: Count = 5
    patch_recipe: Chain = "cpc_v2"
    width: Count = 256
    embedding: Count = 64
    scale: Positive = 0.1

    @cached_property
    def networks(self) -> Networks:
        target = mlp_head(self.feature_dim, (self.embedding,), last_bias=False)
        others = super().networks
        return replace(others, nets={**others.nets, "target": target})

    def directed_networks(self) -> dict[str, Net]:
        dim = self.feature_dim
        return {
            "context": row_blocks(dim, self.width, self.layers),
            "predictor": mlp_head(dim, (len(self.offsets) * self.embedding,)),
        }

    def targets(self, nets: Bound, grid: Array) -> Array:
        # Without a bias, which would add the same number to all scores of a prediction.
        return nets.target(grid)

    def predict(self, nets: Bound, grid: Array, direction: Direction) -> list[Array]:
        return [self.scale * each for each in super().predict(nets, grid, direction)]


make = CPCv2.make
