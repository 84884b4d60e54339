"""TiCo: transformation invariance and covariance contrast (2206.10698)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core import tree
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import BelowOne, Count, NonNegative, Probability
from ssl_jax.losses.tico import tico
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Objective, View
from ssl_jax.objectives.parts.ema import cosine_momentum
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.views import separate

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class TiCo(Objective):
    """An embedding is close to the slow average's embedding of the other view, and small along the
    directions in which the embeddings of earlier batches were large.

    Attributes:
      views: the two views, each with its own augmentation (count 1); the second one goes through
        the slow average.
      projector: hidden and output width of the head.
      decay: beta, by which the covariance matrix of earlier embeddings fades per step.
      weight: rho, weight of the covariance term (20 in lightly 1.6.0).
      momentum: momentum of the encoder's average at step 0; it rises to 1 along a cosine.
    """

    family: ClassVar[str] = "contrastive"
    needs: ClassVar[str] = "no large batch: a covariance matrix in place of negatives"
    least_batch: ClassVar[int] = 2

    views: tuple[OneCrop, OneCrop] = (
        View(224, area=(0.08, 1.0), recipe="byol_1", interpolation="bicubic", crop="one_draw"),
        View(224, area=(0.08, 1.0), recipe="byol_2", interpolation="bicubic", crop="one_draw"),
    )
    projector: tuple[Count, ...] = (4096, 256)
    decay: BelowOne = 0.9
    weight: NonNegative = 20.0
    momentum: Probability = 0.99

    @cached_property
    def networks(self) -> Networks:
        return self.backbone_and(projector=mlp_head(self.feature_dim, self.projector))

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.networks.init(key)
        covariance = jnp.zeros((self.projector[-1],) * 2, jnp.float32)
        average = {"teacher": params, "teacher_stats": stats}  # starts as a copy
        return params, {"stats": stats, "covariance": covariance} | average

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        nets = self.networks.bind(params, extra["stats"])
        average = self.networks.bind(extra["teacher"], extra["teacher_stats"])
        first, second = separate(batch["views"])
        x = nets.projector(nets.backbone(first).pooled)
        y = average.projector(average.backbone(second).pooled)
        loss, covariance = tico(x, y, extra["covariance"], self.decay, self.weight)
        stats = {"stats": nets.stats, "teacher_stats": average.stats}
        return loss, Aux(extra | stats | {"covariance": covariance})

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        momentum = cosine_momentum(step, self.spec.total_steps, self.momentum)
        return params, dict(extra, teacher=tree.ema(extra["teacher"], params, momentum))

    def teacher(self, params: Tree, extra: Tree) -> tuple[Tree, Tree] | None:
        return extra["teacher"], extra["teacher_stats"]


make = TiCo.make
