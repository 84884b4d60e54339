"""NNCLR: nearest-neighbor contrastive learning of visual representations (2104.14548)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import Count, Positive
from ssl_jax.losses.infonce import infonce
from ssl_jax.losses.large_batch.similarity import Similarity
from ssl_jax.losses.nearest_neighbor import nearest_neighbor
from ssl_jax.losses.ntxent import ntxent
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Objective, View
from ssl_jax.objectives.parts import queue
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.views import fold, separate

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class NNCLR(Objective):
    """The positive of a view is the nearest neighbour of its embedding among those of earlier
    batches; the prediction of the other view must match it.

    Attributes:
      views: the two views, each with its own augmentation (count 1). As released, batch norm sees
        each by itself.
      projector: widths of the projector's layers, each with batch norm.
      predictor: hidden and output width of the predictor; the output is the projector's.
      temperature: temperature of the softmax over similarities.
      queue_size: number of earlier embeddings, the support set; a multiple of the global batch, at
        most the data set.
      candidates: what a neighbour chooses its prediction from: "predictions" are those of all
        images (the paper, appendix A); "all" adds the other neighbours, and the other predictions
        for the prediction's own choice (lightly's `NTXentLoss`, examples/pytorch/nnclr.py).
      similarity: whether the loss holds the similarities of all pairs; see
        `losses.large_batch.similarity`.
    """

    family: ClassVar[str] = "contrastive"
    needs: ClassVar[str] = "a large global batch"
    least_batch: ClassVar[int] = 2

    views: tuple[OneCrop, OneCrop] = (
        View(224, area=(0.08, 1.0), recipe="byol_1", interpolation="bicubic", crop="one_draw"),
        View(224, area=(0.08, 1.0), recipe="byol_2", interpolation="bicubic", crop="one_draw"),
    )
    projector: tuple[Count, ...] = (2048, 2048, 256)
    predictor: tuple[Count, ...] = (4096, 256)
    temperature: Positive = 0.1
    queue_size: Count = 98304
    candidates: Literal["predictions", "all"] = "predictions"
    similarity: Similarity = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.predictor[-1] != self.projector[-1]:
            raise UserError(
                f"objective.predictor: ends in {self.predictor[-1]}, but neighbours have "
                f"{self.projector[-1]} features; end it in {self.projector[-1]}"
            )

    @cached_property
    def networks(self) -> Networks:
        projector = mlp_head(self.feature_dim, self.projector, last_norm="affine")
        predictor = mlp_head(self.projector[-1], self.predictor)
        return self.backbone_and(projector=projector, predictor=predictor)

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.networks.init(key)
        support = queue.init(
            rng.named(key, "queue"), self.queue_size, self.projector[-1], self.spec
        )
        return params, {"stats": stats, "queue": support}

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        nets = self.networks.bind(params, extra["stats"])
        support = queue.keys(extra["queue"])
        neighbors, predictions = [], []
        for view in separate(batch["views"]):  # one by one: batch norm sees each view by itself
            z = nets.projector(nets.backbone(view).pooled)
            neighbors.append(nearest_neighbor(z, support))
            predictions.append(nets.predictor(z))
        crossed = zip(neighbors, predictions[::-1], strict=True)
        loss = jnp.mean(jnp.stack([self.contrast(n, p) for n, p in crossed]))
        # Both views look in the old support set; only the second view enters it.
        return loss, Aux(dict(extra, stats=nets.stats), signals={"keys": z})

    def contrast(self, neighbors: Array, predictions: Array) -> Array:
        """Compute the scalar loss of neighbours and the other view's predictions, (B, d) each."""
        if self.candidates == "all":
            rows = fold(jnp.stack([neighbors, predictions], axis=1))
            return ntxent(rows, self.temperature, similarity=self.similarity)
        rows = infonce(neighbors, predictions, self.temperature, similarity=self.similarity)
        return jnp.mean(rows)

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        return params, dict(extra, queue=queue.push(extra["queue"], signals["keys"]))


make = NNCLR.make
