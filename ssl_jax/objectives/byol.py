"""BYOL: bootstrap your own latent (2006.07733)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core import rng, tree
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import Count, Probability
from ssl_jax.losses.negative_cosine import regression_loss
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Objective, View
from ssl_jax.objectives.parts.ema import cosine_momentum
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.views import separate

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class BYOL(Objective):
    """The online network predicts its own slow average's projection of the other view, without
    negatives.

    Attributes:
      views: the two views, each with its own augmentation (count 1).
      projector: hidden and output width of the projector and of the predictor.
      momentum: momentum of the target's average at step 0; it rises to 1 along a cosine.
    """

    family: ClassVar[str] = "siamese"
    least_batch: ClassVar[int] = 2

    views: tuple[OneCrop, OneCrop] = (
        View(224, area=(0.08, 1.0), recipe="byol_1", interpolation="bicubic", crop="one_draw"),
        View(224, area=(0.08, 1.0), recipe="byol_2", interpolation="bicubic", crop="one_draw"),
    )
    projector: tuple[Count, ...] = (4096, 256)
    momentum: Probability = 0.996

    @cached_property
    def networks(self) -> Networks:
        head = lambda dim: mlp_head(dim, self.projector, hidden_bias=True, last_bias=False)  # noqa: E731
        return self.backbone_and(
            projector=head(self.feature_dim), predictor=head(self.projector[-1])
        )

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.networks.init(rng.named(key, "online"))
        # As released, the target starts from weights of its own. It has no predictor.
        target_networks = self.networks.only("backbone", "projector")
        target, target_stats = target_networks.init(rng.named(key, "target"))
        return params, {"stats": stats, "target": target, "target_stats": target_stats}

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        online = self.networks.bind(params, extra["stats"])
        target = self.networks.bind(extra["target"], extra["target_stats"])
        predictions, targets = [], []
        for view in separate(batch["views"]):  # one by one: batch norm sees each view by itself
            z = online.projector(online.backbone(view).pooled)
            predictions.append(online.predictor(z))
            targets.append(target.projector(target.backbone(view).pooled))
        crossed = [regression_loss(p, t) for p, t in zip(predictions, targets[::-1], strict=True)]
        extra = dict(extra, stats=online.stats, target_stats=target.stats)
        return jnp.mean(sum(crossed)), Aux(extra)

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        momentum = cosine_momentum(step, self.spec.total_steps, self.momentum)
        online = {name: params[name] for name in extra["target"]}
        return params, dict(extra, target=tree.ema(extra["target"], online, momentum))

    def teacher(self, params: Tree, extra: Tree) -> tuple[Tree, Tree] | None:
        return extra["target"], extra["target_stats"]


make = BYOL.make
