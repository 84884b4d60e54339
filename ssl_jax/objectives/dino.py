"""DINO: emerging properties in self-supervised vision transformers (2104.14294)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core import tree
from ssl_jax.losses.cross_view import cross_entropies, mean_of_other_views
from ssl_jax.losses.dino import teacher_probabilities, teacher_temperature
from ssl_jax.nets.heads import dino_head
from ssl_jax.objectives.base import Aux, Encoder, Group, Inputs, Objective, View
from ssl_jax.objectives.parts.branch import Branch, feature_dim
from ssl_jax.objectives.parts.ema import cosine_momentum
from ssl_jax.objectives.parts.multicrop import apply_views, leading_groups

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class DINO(Objective):
    """The student predicts from every crop what its own slow average, the teacher, says of the
    image's other large crops. The teacher is what is kept.

    Attributes:
      views: groups of crops, the large ones first.
      large: number of large crops, which the teacher sees.
      prototypes: outputs of the head, K.
      hidden_dim, bottleneck_dim: of the head (`nets.heads.dino_head`).
      norm_last_layer: whether the prototypes have norm 1 or a trained one.
      freeze_epochs: the head's last layer does not move so long.
      student_temperature: of the predictions.
      temperature, warmup_temperature, warmup_epochs: the teacher's; see
        `losses.dino.teacher_temperature`.
      center_momentum: of the running mean of the teacher's logits.
      momentum: of the teacher at step 0; it rises to 1 along a cosine.
      microbatches: see `parts.branch.Branch`.
    """

    family: ClassVar[str] = "siamese"

    views: tuple[View, ...] = (
        View(224, area=(0.4, 1.0), recipe="dino_1"),
        View(224, area=(0.4, 1.0), recipe="dino_2"),
        View(96, 8, (0.05, 0.4), "dino_local"),
    )
    large: int = 2
    prototypes: int = 65536
    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    norm_last_layer: bool = True
    freeze_epochs: float = 1.0
    student_temperature: float = 0.1
    temperature: float = 0.04
    warmup_temperature: float = 0.04
    warmup_epochs: int = 0
    center_momentum: float = 0.9
    momentum: float = 0.996
    microbatches: int = 1

    def __post_init__(self) -> None:
        leading_groups(self.views, self.large)

    @cached_property
    def branch(self) -> Branch:
        dim = feature_dim(self.backbone, self.views[0].size, self.spec.channels)
        head = dino_head(
            dim,
            self.prototypes,
            hidden_dim=self.hidden_dim,
            bottleneck_dim=self.bottleneck_dim,
            norm_last_layer=self.norm_last_layer,
        )
        return Branch((("backbone", self.backbone), ("head", head)), self.microbatches)

    def inputs(self) -> Inputs:
        return Inputs(views=self.views)

    def groups(self) -> dict[str, Group]:
        steps = round(self.freeze_epochs * self.spec.steps_per_epoch)
        return {"last_layer": Group("^head/last_layer/", frozen_until=steps)}

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.branch.init(key)
        center = jnp.zeros((self.prototypes,), jnp.float32)
        teacher = {"teacher": params, "teacher_stats": stats}
        return params, {"stats": stats, "center": center} | teacher

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        crops = batch["views"]
        large = crops[: leading_groups(self.views, self.large)]
        student, stats = apply_views(self.branch, params, extra["stats"], crops)
        teacher, teacher_stats = apply_views(
            self.branch, extra["teacher"], extra["teacher_stats"], large
        )
        temperature = teacher_temperature(
            step,
            self.spec.steps_per_epoch,
            self.warmup_temperature,
            self.temperature,
            self.warmup_epochs,
        )
        targets = teacher_probabilities(teacher["head"], extra["center"], temperature)
        logits = student["head"] / self.student_temperature
        loss = mean_of_other_views(cross_entropies(targets, logits))
        extra = dict(extra, stats=stats, teacher_stats=teacher_stats)
        return loss, Aux(extra, {"center": jnp.mean(teacher["head"], axis=(0, 1))})

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        momentum = cosine_momentum(step, self.spec.total_steps, self.momentum)
        teacher = tree.ema(extra["teacher"], params, momentum)
        center = tree.ema(extra["center"], signals["center"], self.center_momentum)
        return params, dict(extra, teacher=teacher, center=center)

    def encoder(self, params: Tree, extra: Tree) -> Encoder:
        return Encoder(
            extra["teacher"]["backbone"], extra["teacher_stats"]["backbone"], self.backbone
        )


make = DINO.make
