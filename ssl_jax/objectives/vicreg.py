"""VICReg: variance-invariance-covariance regularization (2105.04906)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax

from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import Count, NonNegative
from ssl_jax.losses.vicreg import vicreg
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Objective, View
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.views import separate

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class VICReg(Objective):
    """Two views of an image agree, while features keep their variance and are uncorrelated.

    Attributes:
      views: the two views, each with its own augmentation (count 1).
      projector: widths of the expander's layers, with batch norm between them; the last is linear.
      invariance_weight, variance_weight, covariance_weight: weights of the terms of the loss.
    """

    family: ClassVar[str] = "siamese"
    least_batch: ClassVar[int] = 2

    views: tuple[OneCrop, OneCrop] = (
        View(224, area=(0.08, 1.0), recipe="dino_1", interpolation="bicubic"),
        View(224, area=(0.08, 1.0), recipe="dino_2", interpolation="bicubic"),
    )
    projector: tuple[Count, ...] = (8192, 8192, 8192)
    invariance_weight: NonNegative = 25.0
    variance_weight: NonNegative = 25.0
    covariance_weight: NonNegative = 1.0

    @cached_property
    def networks(self) -> Networks:
        # The release also has biases before its batch norms, where they have no effect.
        head = mlp_head(self.feature_dim, self.projector, last_bias=False, init="torch")
        return self.backbone_and(projector=head)

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        nets = self.networks.bind(params, extra["stats"])
        # One view after the other: batch norm sees each by itself.
        views = separate(batch["views"])
        first, second = (nets.projector(nets.backbone(view).pooled) for view in views)
        loss = vicreg(
            first,
            second,
            invariance_weight=self.invariance_weight,
            variance_weight=self.variance_weight,
            covariance_weight=self.covariance_weight,
        )
        return loss, Aux({"stats": nets.stats})


make = VICReg.make
