"""SupCon: supervised contrastive learning (2004.11362)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import TwoCrops
from ssl_jax.core.ranges import Positive
from ssl_jax.losses.supcon import supcon
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Inputs, View
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.simclr import SimCLR

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class SupCon(SimCLR):
    """SimCLR whose positives are all views of all images of a class.

    An image without a label is a class of its own, as in SimCLR.

    Attributes:
      projector: widths of the head's layers, without batch norm, as released.
      mean: whether the mean over the positives stands outside of the logarithm, "out" (equation 2,
        better in the paper), or inside, "in" (equation 3).
    """

    needs: ClassVar[str] = "labels, a large global batch"

    view: TwoCrops = View(224, count=2, area=(0.2, 1.0), recipe="simclr")
    temperature: Positive = 0.1
    mean: Literal["out", "in"] = "out"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.spec.num_classes < 2:
            raise UserError(
                "objective: supcon needs labels of at least two classes, and this data set has "
                f"{self.spec.num_classes}; without labels, use simclr"
            )

    @cached_property
    def networks(self) -> Networks:
        head = mlp_head(self.feature_dim, self.projector, norm=None, init="torch")
        return self.backbone_and(projector=head)

    def inputs(self) -> Inputs:
        return Inputs(views=(self.view,), label=True)

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        z, stats = self.embed(params, extra, batch)
        label = batch["label"]
        own = self.spec.num_classes + jnp.arange(len(label), dtype=label.dtype)
        classes = jnp.repeat(jnp.where(label < 0, own, label), 2)
        loss = supcon(z, classes, self.temperature, mean=self.mean, similarity=self.similarity)
        return loss, Aux({"stats": stats})


make = SupCon.make
