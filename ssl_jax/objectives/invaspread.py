"""InvaSpread: embedding learning via invariant and spreading instance feature (1904.03436)."""

from dataclasses import dataclass
from functools import cached_property

import jax

from ssl_jax.core.inputs import TwoCrops
from ssl_jax.core.ranges import Count, Positive
from ssl_jax.losses.invaspread import invaspread
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import View
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.simclr import SimCLR

Array = jax.Array


@dataclass(frozen=True)
class InvaSpread(SimCLR):
    """Each view is classified as its image, and every other row of the batch as not it.

    Attributes:
      projector: widths of the head; one linear layer as released.
      negative_weight: weight of the second term.
    """

    view: TwoCrops = View(32, count=2, area=(0.2, 1.0), recipe="instdisc")
    projector: tuple[Count, ...] = (128,)
    negative_weight: Positive = 1.0

    @cached_property
    def networks(self) -> Networks:
        return self.backbone_and(projector=mlp_head(self.feature_dim, self.projector, init="torch"))

    def contrast(self, z: Array, step: Array) -> Array:
        return invaspread(z, self.temperature, self.negative_weight, similarity=self.similarity)


make = InvaSpread.make
