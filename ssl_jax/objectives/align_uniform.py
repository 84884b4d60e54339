"""Alignment and uniformity on the hypersphere (2005.10242)."""

from dataclasses import dataclass
from functools import cached_property

import jax

from ssl_jax.core.inputs import TwoCrops
from ssl_jax.core.ranges import Count, NonNegative, Positive
from ssl_jax.losses.align_uniform import alignment, uniformity
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import View
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.simclr import SimCLR

Array = jax.Array


@dataclass(frozen=True)
class AlignUniform(SimCLR):
    """Two views of an image come together, and all images of a view spread over the sphere.

    Attributes:
      projector: widths of the head; one linear layer as released.
      alpha: exponent of the distance between positives.
      t: factor of the squared distances between images.
      align_weight, uniform_weight: weights of the two terms; the second is averaged over the views.
    """

    view: TwoCrops = View(64, count=2, area=(0.08, 1.0), recipe="instdisc")
    projector: tuple[Count, ...] = (128,)
    alpha: Positive = 2.0
    t: Positive = 2.0
    align_weight: NonNegative = 1.0
    uniform_weight: NonNegative = 1.0

    @cached_property
    def networks(self) -> Networks:
        return self.backbone_and(projector=mlp_head(self.feature_dim, self.projector, init="torch"))

    def contrast(self, z: Array, step: Array) -> Array:
        x, y = z[0::2], z[1::2]
        spread = sum(uniformity(v, self.t, similarity=self.similarity) for v in (x, y)) / 2
        return self.align_weight * alignment(x, y, self.alpha) + self.uniform_weight * spread


make = AlignUniform.make
