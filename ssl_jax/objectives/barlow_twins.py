"""Barlow Twins: self-supervised learning via redundancy reduction (2103.03230)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax

from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import Count, NonNegative, Positive
from ssl_jax.losses.barlow_twins import barlow_twins
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Objective, View
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.views import separate

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class BarlowTwins(Objective):
    """Each feature agrees between two views of an image and is uncorrelated with the others.

    Attributes:
      views: the two views, each with its own augmentation (count 1).
      projector: widths of its layers, with batch norm between them; the last is linear.
      redundancy: weight of the correlations between different features, the paper's lambda.
      scale: factor of the loss. It affects biases and norms, whose steps LARS does not adapt.
    """

    family: ClassVar[str] = "siamese"
    least_batch: ClassVar[int] = 2

    views: tuple[OneCrop, OneCrop] = (
        View(224, area=(0.08, 1.0), recipe="dino_1", interpolation="bicubic"),
        View(224, area=(0.08, 1.0), recipe="dino_2", interpolation="bicubic"),
    )
    projector: tuple[Count, ...] = (8192, 8192, 8192)
    redundancy: NonNegative = 0.0051
    scale: Positive = 1.0

    @cached_property
    def networks(self) -> Networks:
        head = mlp_head(self.feature_dim, self.projector, last_bias=False, init="torch")
        return self.backbone_and(projector=head)

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        nets = self.networks.bind(params, extra["stats"])
        # One view after the other: batch norm sees each by itself.
        views = separate(batch["views"])
        first, second = (nets.projector(nets.backbone(view).pooled) for view in views)
        loss = barlow_twins(first, second, self.redundancy)
        return self.scale * loss, Aux({"stats": nets.stats})


make = BarlowTwins.make
