"""SimSiam: exploring simple siamese representation learning (2011.10566)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core.ranges import Count
from ssl_jax.losses.negative_cosine import negative_cosine
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Group, Objective, View
from ssl_jax.objectives.parts.branch import Branch
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

    view: View = View(224, count=2, area=(0.2, 1.0), recipe="moco_v2")
    projector: tuple[Count, ...] = (2048, 2048, 2048)
    predictor: Count = 512
    fix_predictor_lr: bool = True

    @cached_property
    def branch(self) -> Branch:
        projector = mlp_head(self.feature_dim, self.projector, last_norm="no_affine", init="torch")
        out = self.projector[-1]
        predictor = mlp_head(out, (self.predictor, out), init="torch")
        return self.chain(projector=projector, predictor=predictor)

    def groups(self) -> dict[str, Group]:
        return {"predictor": Group("^predictor/", constant_lr=self.fix_predictor_lr)}

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        views = separate(batch["views"])
        (first, second), stats = self.branch.apply_each(params, extra["stats"], views)
        z1, z2 = (jax.lax.stop_gradient(out["projector"]) for out in (first, second))
        crossed = negative_cosine(first["predictor"], z2) + negative_cosine(second["predictor"], z1)
        return jnp.mean(crossed) / 2, Aux({"stats": stats})


make = SimSiam.make
