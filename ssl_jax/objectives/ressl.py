"""ReSSL: relational self-supervised learning with weak augmentation (2107.09282)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core import rng, tree
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import Count, Positive, Probability
from ssl_jax.losses.large_batch.similarity import Similarity
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.losses.ressl import ressl
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Objective, View
from ssl_jax.objectives.parts import queue
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.views import separate

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class ReSSL(Objective):
    """A strongly augmented view has the similarities to old keys that the slow average sees in a
    weakly augmented one.

    Attributes:
      views: the student's strong and the teacher's weak view (count 1 each).
      projector: widths of the head's layers, without batch norm.
      student_temperature, teacher_temperature: of the two softmaxes; the teacher's is lower, so
        that its similarities are the sharper ones.
      queue_size: number of old keys; a multiple of the global batch, at most the data set.
      momentum: momentum of the teacher's average.
      similarity: whether the loss holds the similarities of queries and queue; see
        `losses.large_batch.similarity`.
    """

    family: ClassVar[str] = "contrastive"
    needs: ClassVar[str] = "no large batch: a queue of old keys"

    views: tuple[OneCrop, OneCrop] = (
        View(224, area=(0.2, 1.0), recipe="simclr"),
        View(224, area=(0.2, 1.0), recipe="mae"),
    )
    projector: tuple[Count, ...] = (4096, 512)
    student_temperature: Positive = 0.1
    teacher_temperature: Positive = 0.04
    queue_size: Count = 131072
    momentum: Probability = 0.999
    similarity: Similarity = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher_temperature >= self.student_temperature:
            raise UserError(
                f"objective.teacher_temperature: {self.teacher_temperature} must be below the "
                f"student's {self.student_temperature}, or the targets are too flat to learn from"
            )

    @cached_property
    def networks(self) -> Networks:
        head = mlp_head(self.feature_dim, self.projector, norm=None, init="torch")
        return self.backbone_and(projector=head)

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.networks.init(key)
        keys = queue.init(rng.named(key, "queue"), self.queue_size, self.projector[-1], self.spec)
        average = {"teacher": params, "teacher_stats": stats}  # starts as a copy
        return params, {"stats": stats, "queue": keys} | average

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        student = self.networks.bind(params, extra["stats"])
        teacher = self.networks.bind(extra["teacher"], extra["teacher_stats"])
        strong, weak = separate(batch["views"])
        queries = student.projector(student.backbone(strong).pooled)
        keys = teacher.projector(teacher.backbone(weak).pooled)
        temperatures = self.student_temperature, self.teacher_temperature
        old = queue.keys(extra["queue"])
        rows = ressl(queries, keys, old, *temperatures, similarity=self.similarity)
        extra = dict(extra, stats=student.stats, teacher_stats=teacher.stats)
        return jnp.mean(rows), Aux(extra, signals={"keys": l2_normalize(keys, floor="norm")})

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        teacher = tree.ema(extra["teacher"], params, self.momentum)
        pushed = queue.push(extra["queue"], signals["keys"])
        return params, dict(extra, teacher=teacher, queue=pushed)

    def teacher(self, params: Tree, extra: Tree) -> tuple[Tree, Tree] | None:
        return extra["teacher"], extra["teacher_stats"]


make = ReSSL.make
