"""W-MSE: whitening for self-supervised representation learning (2007.06346)."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import SeveralCrops
from ssl_jax.core.ranges import BelowOne, Count, Several
from ssl_jax.losses.wmse import wmse
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Objective, View
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.views import fold, unfold

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class WMSE(Objective):
    """Views of an image come together after their embeddings were whitened, so that they cannot
    all become one point; there are no negatives.

    Attributes:
      view: crops and augmentation; the loss is the mean over all pairs of the `count` views.
      projector: widths of the head's layers, without batch norm after the last.
      size: images of a sub-batch, which are whitened together; more than the embedding's width,
        twice as many in the paper, and a divisor of the global batch.
      eps: share of the identity in the covariance matrix before it is inverted.
    """

    family: ClassVar[str] = "contrastive"
    needs: ClassVar[str] = "a batch of some sub-batches"
    least_batch: ClassVar[int] = 2

    view: SeveralCrops = View(224, count=2, area=(0.2, 1.0), recipe="moco_v2")
    projector: tuple[Count, ...] = (1024, 64)
    size: Several = 128
    eps: BelowOne = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        batch, width = self.spec.global_batch, self.projector[-1]
        if batch % self.size or self.size <= width:
            raise UserError(
                f"objective.size: sub-batches of {self.size} images must divide the batch of "
                f"{batch} and have more images than the embedding's {width} features; set "
                "objective.size and objective.projector to fit"
            )

    @cached_property
    def networks(self) -> Networks:
        head = mlp_head(self.feature_dim, self.projector, hidden_bias=True, init="torch")
        return self.backbone_and(projector=head)

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        nets = self.networks.bind(params, extra["stats"])
        z = nets.projector(nets.backbone(fold(batch["views"][0])).pooled)
        views = unfold(z, self.view.count)  # (B, count, d)
        pairs = list(itertools.combinations(range(self.view.count), 2))
        losses = [wmse(views[:, i], views[:, j], self.size, self.eps) for i, j in pairs]
        return jnp.mean(jnp.stack(losses)), Aux({"stats": nets.stats})


make = WMSE.make
