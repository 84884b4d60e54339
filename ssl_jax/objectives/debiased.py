"""Debiased contrastive learning (2007.00224)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax.core.inputs import TwoCrops
from ssl_jax.core.ranges import BelowOne, Count, Positive
from ssl_jax.losses.debiased import debiased
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import View
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.views import fold, separate
from ssl_jax.objectives.simclr import SimCLR

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class Debiased(SimCLR):
    """SimCLR with negatives corrected for those that are of the anchor's own class.

    As released, batch norm sees each view by itself, and the head's last layer has no batch norm.

    Attributes:
      prior: probability that a negative is of the anchor's class.
    """

    view: TwoCrops = View(32, count=2, area=(0.08, 1.0), recipe="simclr_cifar")
    projector: tuple[Count, ...] = (512, 128)
    temperature: Positive = 0.5
    prior: BelowOne = 0.1

    @cached_property
    def networks(self) -> Networks:
        return self.backbone_and(projector=mlp_head(self.feature_dim, self.projector, init="torch"))

    def embed(self, params: Tree, extra: Tree, batch: Mapping[str, Any]) -> tuple[Array, Tree]:
        nets = self.networks.bind(params, extra["stats"])
        views = separate(batch["views"])  # batch norm sees each by itself, as in the release
        z = jnp.stack([nets.projector(nets.backbone(view).pooled) for view in views], axis=1)
        return fold(z), nets.stats

    def contrast(self, z: Array, step: Array) -> Array:
        return debiased(z, self.temperature, self.prior, similarity=self.similarity)


make = Debiased.make
