"""LeJEPA: provable and scalable self-supervised learning without the heuristics (2511.08544)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core.ranges import Count, Positive, Probability, Several
from ssl_jax.losses.sigreg import sigreg
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Objective, View
from ssl_jax.objectives.parts.multicrop import leading_groups, multicrop
from ssl_jax.objectives.parts.networks import Networks

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class LeJEPA(Objective):
    """Every crop's embedding predicts the centre of the image's large crops, and the embeddings of
    a batch are Gaussian in random directions. One network: no teacher, no predictor, no stopped
    gradient.

    Attributes:
      views: groups of crops, the large ones first.
      large: number of large crops, whose mean is the centre.
      projector: widths of the head, with biases and PyTorch's initialisation, as released.
      weight: lambda, the share of SIGReg in the loss; 1 - lambda is that of the prediction.
      directions: number of random directions, drawn anew at each step.
      points, limit: quadrature of SIGReg; see `losses.sigreg.epps_pulley`.
    """

    family: ClassVar[str] = "siamese"
    least_batch: ClassVar[int] = 2

    views: tuple[View, ...] = (
        View(224, 2, (0.3, 1.0), "lejepa"),
        View(98, 6, (0.05, 0.3), "lejepa"),
    )
    large: Count = 2
    projector: tuple[Count, ...] = (2048, 2048, 16)
    weight: Probability = 0.05
    directions: Count = 1024
    points: Several = 17
    limit: Positive = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        leading_groups(self.views, self.large)

    @cached_property
    def networks(self) -> Networks:
        head = mlp_head(self.feature_dim, self.projector, hidden_bias=True, init="torch")
        return self.backbone_and(projector=head)

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        nets = self.networks.bind(params, extra["stats"])
        z = nets.projector(multicrop(nets.backbone, batch["views"]))  # (B, V, d)
        center = jnp.mean(z[:, : self.large], axis=1, keepdims=True)
        prediction = jnp.mean(jnp.square(z - center))
        gaussian = sigreg(z, key, self.directions, points=self.points, limit=self.limit)
        loss = self.weight * gaussian + (1 - self.weight) * prediction
        metrics = {"prediction_loss": prediction, "sigreg": gaussian}
        return loss, Aux({"stats": nets.stats}, metrics=metrics)


make = LeJEPA.make
