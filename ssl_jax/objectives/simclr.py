"""SimCLR: a simple framework for contrastive learning of visual representations (2002.05709)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax

from ssl_jax.core.inputs import TwoCrops
from ssl_jax.core.ranges import Count, Positive
from ssl_jax.losses.large_batch.similarity import Similarity
from ssl_jax.losses.ntxent import ntxent
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Objective, View
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.views import fold

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class SimCLR(Objective):
    """Two views of an image attract; all other images of the global batch repel.

    Attributes:
      view: crops and augmentation of both views (count 2).
      projector: widths of the head's layers, each a linear map with batch norm; the last batch norm
        has no offset (google-research/simclr, model_util.py).
      temperature: temperature of the softmax over similarities; 0.1 for ImageNet, 0.5 for CIFAR.
      similarity: whether the loss holds the similarities of all pairs; see
        `losses.large_batch.similarity`.
    """

    family: ClassVar[str] = "contrastive"
    needs: ClassVar[str] = "a large global batch"
    least_batch: ClassVar[int] = 2

    view: TwoCrops = View(224, count=2, area=(0.08, 1.0), recipe="simclr", interpolation="bicubic")
    projector: tuple[Count, ...] = (2048, 128)
    temperature: Positive = 0.1
    similarity: Similarity = "auto"

    @cached_property
    def networks(self) -> Networks:
        head = mlp_head(self.feature_dim, self.projector, last_norm="no_bias", init="normal0.01")
        return self.backbone_and(projector=head)

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        z, stats = self.embed(params, extra, batch)
        return self.contrast(z, step), Aux({"stats": stats})

    def embed(self, params: Tree, extra: Tree, batch: Mapping[str, Any]) -> tuple[Array, Tree]:
        """Project both views, (2B, d), and return the new statistics: the positive of row i is
        i ^ 1.
        """
        images = fold(batch["views"][0])  # (2B, H, W, C)
        nets = self.networks.bind(params, extra["stats"])
        z = nets.projector(nets.backbone(images).pooled)
        return z, nets.stats

    def contrast(self, z: Array, step: Array) -> Array:
        """Compute the scalar loss of the projections (2B, d)."""
        # The released code sums both directions: its learning rates belong to this scale.
        return ntxent(z, self.temperature, reduction="simclr", similarity=self.similarity)


make = SimCLR.make
