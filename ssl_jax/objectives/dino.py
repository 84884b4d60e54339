"""DINO: emerging properties in self-supervised vision transformers (2104.14294)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ssl_jax.core import tree
from ssl_jax.core.ranges import Count, NonNegative, Positive, Probability, Several, Whole
from ssl_jax.losses.cross_view import cross_entropies, mean_of_other_views
from ssl_jax.losses.dino import teacher_probabilities
from ssl_jax.nets.heads import dino_head
from ssl_jax.objectives.base import Aux, Encoder, Group, Objective, View
from ssl_jax.objectives.parts import self_distillation
from ssl_jax.objectives.parts.ema import cosine_momentum
from ssl_jax.objectives.parts.multicrop import leading_groups, multicrop
from ssl_jax.objectives.parts.networks import Networks

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class DINO(Objective):
    """The student predicts from every crop the output of its own slow average, the teacher, for the
    image's other large crops. The teacher is the resulting encoder.

    Attributes:
      views: groups of crops, the large ones first.
      large: number of large crops, which the teacher sees.
      prototypes: outputs of the head, K.
      hidden_dim, bottleneck_dim: sizes of the head (`nets.heads.dino_head`).
      head_norm: "batch" for batch norm in the head. The features of different images in an
        untrained transformer have cosines above 0.9; batch norm then keeps the first targets from
        being uniform.
      norm_last_layer: whether the prototypes have norm 1 or a trained one.
      freeze_epochs: epochs for which the head's last layer is frozen.
      student_temperature: temperature of the predictions.
      temperature, warmup_temperature, warmup_epochs: those of the teacher; see
        `parts.self_distillation.teacher_temperature`.
      center_momentum: momentum of the running mean of the teacher's logits.
      momentum: momentum of the teacher at step 0; it rises to 1 along a cosine.
    """

    family: ClassVar[str] = "siamese"
    decays: ClassVar[str] = r"(cls|mask)_token$"  # the release counts axes, and these have three

    views: tuple[View, ...] = (
        View(224, area=(0.4, 1.0), recipe="dino_1", interpolation="bicubic"),
        View(224, area=(0.4, 1.0), recipe="dino_2", interpolation="bicubic"),
        View(96, 8, (0.05, 0.4), "dino_local", interpolation="bicubic"),
    )
    large: Count = 2
    prototypes: Several = 65536
    hidden_dim: Count = 2048
    bottleneck_dim: Count = 256
    head_norm: Literal["batch"] | None = None
    norm_last_layer: bool = True
    freeze_epochs: NonNegative = 1.0
    student_temperature: Positive = 0.1
    temperature: Positive = 0.04
    warmup_temperature: Positive = 0.04
    warmup_epochs: Whole = 0
    center_momentum: Probability = 0.9
    momentum: Probability = 0.996

    def __post_init__(self) -> None:
        super().__post_init__()
        leading_groups(self.views, self.large)

    def unused(self) -> Mapping[str, str]:
        """See `core.config.check_used`."""
        return {} if self.warmup_epochs else self_distillation.NO_WARMUP

    @cached_property
    def networks(self) -> Networks:
        head = dino_head(
            self.feature_dim,
            self.prototypes,
            hidden_dim=self.hidden_dim,
            bottleneck_dim=self.bottleneck_dim,
            norm=self.head_norm,
            norm_last_layer=self.norm_last_layer,
        )
        return self.backbone_and(head=head)

    def groups(self) -> dict[str, Group]:
        return self_distillation.last_layer_group(self.spec, self.freeze_epochs)

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.networks.init(key)
        center = jnp.zeros((self.prototypes,), jnp.float32)
        teacher = {"teacher": params, "teacher_stats": stats}  # starts as the student
        return params, {"stats": stats, **teacher, "center": center}

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        crops = batch["views"]
        large = crops[: leading_groups(self.views, self.large)]
        student = self.networks.bind(params, extra["stats"])
        teacher = self.networks.bind(extra["teacher"], extra["teacher_stats"])
        prediction = student.head(multicrop(student.backbone, crops)) / self.student_temperature
        logits = teacher.head(multicrop(teacher.backbone, large))
        targets = teacher_probabilities(logits, extra["center"], self.teacher_temperature(step))
        loss = mean_of_other_views(cross_entropies(targets, prediction))
        extra = dict(extra, stats=student.stats, teacher_stats=teacher.stats)
        return loss, Aux(extra, {"center": self_distillation.mean_logits(logits)})

    def teacher_temperature(self, step: Array) -> Array:
        """Return the temperature of the targets at a step."""
        return self_distillation.teacher_temperature(
            step,
            self.spec.steps_per_epoch,
            self.warmup_temperature,
            self.temperature,
            self.warmup_epochs,
        )

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        momentum = cosine_momentum(step, self.spec.total_steps, self.momentum)
        teacher = tree.ema(extra["teacher"], params, momentum)
        center = tree.ema(extra["center"], signals["center"], self.center_momentum)
        return params, dict(extra, teacher=teacher, center=center)

    def teacher(self, params: Tree, extra: Tree) -> tuple[Tree, Tree] | None:
        return extra["teacher"], extra["teacher_stats"]

    def encoder(self, params: Tree, extra: Tree) -> Encoder:
        head = self.networks.nets["head"]
        return self_distillation.teacher_encoder(self.backbone, head, extra)


make = DINO.make
