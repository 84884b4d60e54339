"""SimSiam: exploring simple siamese representation learning (2011.10566)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core.inputs import TwoCrops
from ssl_jax.core.ranges import Count
from ssl_jax.losses.negative_cosine import negative_cosine
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Group, Objective, View
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.views import separate

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class SimSiam(Objective):
    """Each view predicts the other's projection, held constant, without negatives or teacher.

    Attributes:
      view: crops and augmentation of both views (count 2).
      projector: widths of its layers, each with batch norm, the last without scale and offset.
      predictor: width of its hidden layer; its output is as wide as the projection.
      fix_predictor_lr: the predictor's learning rate does not decay (appendix B of the paper).
    """

    family: ClassVar[str] = "siamese"
    least_batch: ClassVar[int] = 2

    view: TwoCrops = View(224, count=2, area=(0.2, 1.0), recipe="moco_v2")
    projector: tuple[Count, ...] = (2048, 2048, 2048)
    predictor: Count = 512
    fix_predictor_lr: bool = True

    @cached_property
    def networks(self) -> Networks:
        projector = mlp_head(self.feature_dim, self.projector, last_norm="no_affine", init="torch")
        out = self.projector[-1]
        predictor = mlp_head(out, (self.predictor, out), init="torch")
        return self.backbone_and(projector=projector, predictor=predictor)

    def groups(self) -> dict[str, Group]:
        return {"predictor": Group("^predictor/", constant_lr=self.fix_predictor_lr)}

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        nets = self.networks.bind(params, extra["stats"])
        # One view after the other: batch norm sees each by itself.
        predictions, projections = [], []
        for view in separate(batch["views"]):
            z = nets.projector(nets.backbone(view).pooled)
            predictions.append(nets.predictor(z))
            projections.append(jax.lax.stop_gradient(z))
        (p1, p2), (z1, z2) = predictions, projections
        loss = jnp.mean(negative_cosine(p1, z2) + negative_cosine(p2, z1)) / 2
        return loss, Aux({"stats": nets.stats})


make = SimSiam.make
