"""Base of DINO and iBOT: a head of prototypes, a slow teacher, centred and sharp targets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from ssl_jax.core import tree
from ssl_jax.core.ranges import Count, NonNegative, Positive, Probability, Several, Whole
from ssl_jax.losses.dino import teacher_probabilities, teacher_temperature
from ssl_jax.nets.functional import Net
from ssl_jax.nets.heads import dino_head
from ssl_jax.objectives.base import Encoder, Group, Heads, Objective, View
from ssl_jax.objectives.parts.ema import cosine_momentum
from ssl_jax.objectives.parts.multicrop import leading_groups

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class SelfDistillation(Objective):
    """The student predicts the output of its own slow average, the teacher, for the large crops.
    The teacher is the resulting encoder.

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
        `losses.dino.teacher_temperature`.
      center_momentum: momentum of the running means of the teacher's logits.
      momentum: momentum of the teacher at step 0; it rises to 1 along a cosine.
    """

    views: tuple[View, ...] = (
        View(224, area=(0.4, 1.0), recipe="dino_1"),
        View(224, area=(0.4, 1.0), recipe="dino_2"),
        View(96, 8, (0.05, 0.4), "dino_local"),
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
        leading_groups(self.views, self.large)

    def unused(self) -> Mapping[str, str]:
        """See `core.config.check_used`."""
        if self.warmup_epochs:
            return {}
        return {"warmup_temperature": "the temperature is not warmed up; set warmup_epochs"}

    def make_head(self, dim: int) -> Net:
        """Build the head for features of width `dim`."""
        return dino_head(
            dim,
            self.prototypes,
            hidden_dim=self.hidden_dim,
            bottleneck_dim=self.bottleneck_dim,
            norm=self.head_norm,
            norm_last_layer=self.norm_last_layer,
        )

    def groups(self) -> dict[str, Group]:
        steps = round(self.freeze_epochs * self.spec.steps_per_epoch)
        return {"last_layer": Group("head/last_layer/", frozen_until=steps)}

    def extra(self, params: Tree, stats: Tree, *centers: str) -> Tree:
        """Create a teacher that starts as the student, and `centers` that start at 0."""
        zeros = {name: jnp.zeros((self.prototypes,), jnp.float32) for name in centers}
        return {"stats": stats, "teacher": params, "teacher_stats": stats} | zeros

    def targets(self, logits: Array, center: Array, step: Array, temperature: float) -> Array:
        """Compute the teacher's probabilities, with the temperature warming up to `temperature`."""
        current_temperature = teacher_temperature(
            step,
            self.spec.steps_per_epoch,
            self.warmup_temperature,
            temperature,
            self.warmup_epochs,
        )
        return teacher_probabilities(logits, center, current_temperature)

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        """Update teacher and centres; `signals` holds the batch means of the logits by centre."""
        momentum = cosine_momentum(step, self.spec.total_steps, self.momentum)
        teacher = tree.ema(extra["teacher"], params, momentum)
        old = {name: extra[name] for name in signals}
        return params, extra | tree.ema(old, signals, self.center_momentum) | {"teacher": teacher}

    def teacher(self, params: Tree, extra: Tree) -> tuple[Tree, Tree] | None:
        return extra["teacher"], extra["teacher_stats"]

    def encoder(self, params: Tree, extra: Tree) -> Encoder:
        teacher, stats = extra["teacher"], extra["teacher_stats"]
        after = {"params": teacher["head"], "stats": stats["head"], "center": extra["center"]}
        heads = Heads(after, self._score)
        return Encoder(teacher["backbone"], stats["backbone"], self.backbone, clusters=heads)

    def _score(self, after: Tree, pooled: Array) -> Sequence[Array]:
        """Compute the teacher's centred logits."""
        head = self.make_head(pooled.shape[-1])
        logits, _ = head.apply(after["params"], after["stats"], pooled, train=False)
        return [logits - after["center"]]
