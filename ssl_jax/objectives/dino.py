"""DINO: emerging properties in self-supervised vision transformers (2104.14294)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.losses.cross_view import cross_entropies, mean_of_other_views
from ssl_jax.objectives.base import Aux
from ssl_jax.objectives.parts.branch import Branch
from ssl_jax.objectives.parts.multicrop import apply_views, leading_groups
from ssl_jax.objectives.parts.self_distillation import SelfDistillation

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class DINO(SelfDistillation):
    """The student predicts from every crop the teacher's output for the image's other large crops.

    The hyper-parameters are those of `parts.self_distillation.SelfDistillation`.
    """

    family: ClassVar[str] = "siamese"
    decays: ClassVar[str] = r"(cls|mask)_token$"  # the release counts axes, and these have three

    @cached_property
    def branch(self) -> Branch:
        return self.chain(head=self.make_head(self.feature_dim))

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.branch.init(key)
        return params, self.extra(params, stats, "center")

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        crops = batch["views"]
        large = crops[: leading_groups(self.views, self.large)]
        student, stats = apply_views(self.branch, params, extra["stats"], crops)
        teacher, teacher_stats = apply_views(
            self.branch, extra["teacher"], extra["teacher_stats"], large
        )
        targets = self.targets(teacher["head"], extra["center"], step, self.temperature)
        logits = student["head"] / self.student_temperature
        loss = mean_of_other_views(cross_entropies(targets, logits))
        extra = dict(extra, stats=stats, teacher_stats=teacher_stats)
        return loss, Aux(extra, {"center": jnp.mean(teacher["head"], axis=(0, 1))})


make = DINO.make
