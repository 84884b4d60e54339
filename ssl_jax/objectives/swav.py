"""SwAV: unsupervised learning of visual features by contrasting cluster assignments (2006.09882)"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, NonNegative, Positive, Several, Whole
from ssl_jax.losses.cross_view import cross_entropies, mean_of_other_views
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.losses.sinkhorn import sinkhorn
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Encoder, Group, Heads, Objective, View
from ssl_jax.objectives.parts import queue
from ssl_jax.objectives.parts.multicrop import leading_groups, multicrop
from ssl_jax.objectives.parts.networks import Networks

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class SwAV(Objective):
    """Each crop predicts the assignments of the image's large crops to prototypes; the assignments
    use all prototypes equally over the global batch.

    Attributes:
      views: groups of crops, the large ones first.
      assigned: number of large crops, which are assigned to prototypes.
      projector: widths of the head.
      prototypes: number of prototypes.
      temperature: temperature of the predictions.
      epsilon, iterations: of Sinkhorn-Knopp.
      queue_size: number of earlier embeddings of each large crop that are assigned together with
        the batch, for batches smaller than the number of prototypes; a multiple of the batch, 0 for
        none.
      queue_start: epoch from which the queue fills; it is used as soon as it is full.
      freeze_epochs: epochs for which the prototypes are frozen.
    """

    family: ClassVar[str] = "clustering"
    needs: ClassVar[str] = "a large global batch, or its queue"
    least_batch: ClassVar[int] = 2

    views: tuple[View, ...] = (
        View(224, 2, (0.14, 1.0), "swav"),
        View(96, 6, (0.05, 0.14), "swav"),
    )
    assigned: Count = 2
    projector: tuple[Count, ...] = (2048, 128)
    prototypes: Several = 3000
    temperature: Positive = 0.1
    epsilon: Positive = 0.05
    iterations: Count = 3
    queue_size: Whole = 0
    queue_start: NonNegative = 15.0
    freeze_epochs: NonNegative = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        leading_groups(self.views, self.assigned)
        if self.prototypes > self.spec.num_examples:
            raise UserError(
                f"objective.prototypes: {self.prototypes} is more than the "
                f"{self.spec.num_examples} examples; use a tenth of that or fewer"
            )

    def unused(self) -> Mapping[str, str]:
        """See `core.config.check_used`."""
        return {} if self.queue_size else {"queue_start": "there is no queue; set queue_size"}

    @cached_property
    def networks(self) -> Networks:
        head = mlp_head(self.feature_dim, self.projector, hidden_bias=True, init="torch")
        return self.backbone_and(projector=head)

    def groups(self) -> dict[str, Group]:
        steps = round(self.freeze_epochs * self.spec.steps_per_epoch)
        return {"prototypes": Group("^prototypes$", frozen_until=steps)}

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.networks.init(key)
        dim, extra = self.projector[-1], {"stats": stats}
        shape = (self.prototypes, dim)
        random_prototypes = jax.random.normal(rng.named(key, "prototypes"), shape, jnp.float32)
        params["prototypes"] = l2_normalize(random_prototypes)
        if self.queue_size:
            queue_key = rng.named(key, "queue")
            extra["queue"] = queue.init(queue_key, self.queue_size, self.assigned * dim, self.spec)
        return params, extra

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        nets = self.networks.bind(params, extra["stats"])
        z = l2_normalize(nets.projector(multicrop(nets.backbone, batch["views"])))  # (B, V, D)
        large = z[:, : self.assigned]
        together, in_use = large[:, None], jnp.ones((1,), bool)
        if self.queue_size:
            earlier = extra["queue"]["keys"]
            full = step >= self.first_push + earlier.shape[1]
            in_use = jnp.concatenate([in_use, jnp.broadcast_to(full, earlier.shape[1:2])])
            earlier = earlier.reshape(*earlier.shape[:2], *large.shape[1:])
            together = jnp.concatenate([together, earlier], axis=1)
        targets = self.assign(self.scores(params, together), in_use)
        logits = self.scores(params, z) / self.temperature
        loss = mean_of_other_views(cross_entropies(targets, logits))
        return loss, Aux(dict(extra, stats=nets.stats), {"large": large})

    def scores(self, params: Tree, z: Array) -> Array:
        """Compute the cosines with the prototypes, (..., D) -> (..., K)."""
        return jnp.matmul(z, params["prototypes"].T, precision="highest")

    def encoder(self, params: Tree, extra: Tree) -> Encoder:
        after = {name: params[name] for name in ("projector", "prototypes")}
        stats = {"projector": extra["stats"]["projector"]}
        heads = Heads({"params": after, "stats": stats}, self._score)
        return replace(super().encoder(params, extra), clusters=heads)

    def _score(self, after: Tree, pooled: Array) -> Sequence[Array]:
        nets = self.networks.bind(after["params"], after["stats"], train=False)
        z = l2_normalize(nets.projector(pooled))
        return [self.scores(after["params"], z)]

    def assign(self, scores: Array, in_use: Array) -> Array:
        """Compute the assignments (B, A, K) of the batch, which comes first in `scores`
        (B, 1 + S, A, K), before the S batches of the queue; `in_use` (1 + S,).
        """
        rows, length, crops, count = scores.shape
        valid = jnp.broadcast_to(in_use, (rows, length)).reshape(-1)
        codes = [
            sinkhorn(
                scores[:, :, i].reshape(-1, count), self.epsilon, self.iterations, valid=valid
            ).reshape(rows, length, count)[:, 0]
            for i in range(crops)
        ]
        return jnp.stack(codes, axis=1)

    @property
    def first_push(self) -> int:
        """Step from which the queue is filled."""
        return round(self.queue_start * self.spec.steps_per_epoch)

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        params = dict(params, prototypes=l2_normalize(params["prototypes"]))
        if self.queue_size:
            large = signals["large"]
            pushed = queue.push(extra["queue"], large.reshape(large.shape[0], -1))
            started = step >= self.first_push
            new_queue = jax.tree.map(lambda n, o: jnp.where(started, n, o), pushed, extra["queue"])
            extra = dict(extra, queue=new_queue)
        return params, extra


make = SwAV.make
