"""SMoG: unsupervised visual representation learning by synchronous momentum grouping (2207.06167).

The order of the steps is that of lightly 1.6.0 (examples/pytorch_lightning/smog.py).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core import rng, tree
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import BelowOne, Count, Positive, Several, Whole
from ssl_jax.losses.cross_entropy import cross_entropy
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.losses.smog import group_logits, nearest_group, update_groups
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, DataPass, Objective, View
from ssl_jax.objectives.parts import queue
from ssl_jax.objectives.parts.kmeans import kmeans
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.views import separate

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class SMoG(Objective):
    """A view's prediction picks the group of the other view; groups follow the encodings in the
    same step, so that the gradient also reaches the images of a group through the group itself.

    Attributes:
      views: the two views (count 1 each); they change places every second step.
      projector: widths of the head, with batch norm after each layer; the last has no scale.
      predictor: hidden and output width of the predictor; the output is the projector's.
      clusters: number of groups.
      temperature: temperature of the softmax over groups.
      group_momentum: beta, momentum of a group towards the mean of its encodings.
      momentum: momentum of the slow average that assigns the groups.
      queue_size: number of old encodings, of which k-means makes new groups; a multiple of the
        global batch, at most the data set.
      reset_every: steps between two k-means; the slow average restarts from the encoder then. 0
        for none.
      iterations: rounds of k-means.
    """

    family: ClassVar[str] = "contrastive"
    needs: ClassVar[str] = "no large batch: groups and a queue"
    least_batch: ClassVar[int] = 2

    views: tuple[OneCrop, OneCrop] = (
        View(224, area=(0.2, 1.0), recipe="byol_1"),
        View(224, area=(0.2, 1.0), recipe="byol_2"),
    )
    projector: tuple[Count, ...] = (2048, 128)
    predictor: tuple[Count, ...] = (2048, 128)
    clusters: Several = 3000
    temperature: Positive = 0.1
    group_momentum: BelowOne = 0.99
    momentum: BelowOne = 0.99
    queue_size: Count = 65536
    reset_every: Whole = 300
    iterations: Count = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.predictor[-1] != self.projector[-1]:
            raise UserError(
                f"objective.predictor: ends in {self.predictor[-1]}, but groups have "
                f"{self.projector[-1]} features; end it in {self.projector[-1]}"
            )
        if self.clusters > self.queue_size:
            raise UserError(
                f"objective.clusters: {self.clusters} is more than the queue's {self.queue_size} "
                "encodings; use a tenth of that or fewer"
            )

    @cached_property
    def networks(self) -> Networks:
        projector = mlp_head(self.feature_dim, self.projector, last_norm="no_affine")
        predictor = mlp_head(self.projector[-1], self.predictor)
        return self.backbone_and(projector=projector, predictor=predictor)

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.networks.init(key)
        width = self.projector[-1]
        groups = jax.random.normal(rng.named(key, "groups"), (self.clusters, width), jnp.float32)
        names = ("backbone", "projector")  # the slow average starts as a copy
        return params, {
            "stats": stats,
            "teacher": {name: params[name] for name in names},
            "teacher_stats": {name: stats[name] for name in names},
            "groups": l2_normalize(groups),
            "queue": queue.init(rng.named(key, "queue"), self.queue_size, width, self.spec),
        }

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        nets = self.networks.bind(params, extra["stats"])
        average = self.networks.bind(extra["teacher"], extra["teacher_stats"])
        x, y = separate(batch["views"])
        x, y = (jnp.where(step % 2 == 0, a, b) for a, b in ((x, y), (y, x)))
        z = nets.projector(nets.backbone(x).pooled)
        prediction = nets.predictor(z)
        target = average.projector(average.backbone(y).pooled)

        old = extra["groups"]
        assignment = nearest_group(target, old)
        groups = update_groups(old, z, nearest_group(z, old), self.group_momentum)
        logits = group_logits(prediction, groups, self.temperature)
        loss = jnp.mean(cross_entropy(logits, assignment))
        state = {"stats": nets.stats, "teacher_stats": average.stats, "groups": groups}
        return loss, Aux(extra | jax.lax.stop_gradient(state), signals={"keys": z})

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        # Averaging here equals averaging before the next step's targets, as released.
        current = {name: params[name] for name in extra["teacher"]}
        teacher = tree.ema(extra["teacher"], current, self.momentum)
        pushed = queue.push(extra["queue"], signals["keys"])
        return params, dict(extra, teacher=teacher, queue=pushed)

    def refresh_steps(self) -> Collection[int]:
        every = self.reset_every
        return range(every, self.spec.total_steps, every) if every else ()

    def pass_steps(self) -> Collection[int]:
        return ()

    def refresh(
        self, params: Tree, extra: Tree, features: DataPass | None, key: Array, step: Array
    ) -> tuple[Tree, Tree]:
        """Group the queue anew and restart the slow average (table 7b of the paper)."""
        points = l2_normalize(queue.keys(extra["queue"]))
        present = jnp.ones(len(points), bool)
        groups = kmeans(points, present, self.clusters, key, iterations=self.iterations).centroids
        teacher = {name: params[name] for name in extra["teacher"]}
        return params, dict(extra, groups=l2_normalize(groups), teacher=teacher)

    def teacher(self, params: Tree, extra: Tree) -> tuple[Tree, Tree] | None:
        return extra["teacher"], extra["teacher_stats"]


make = SMoG.make
