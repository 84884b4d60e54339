"""SimCLR v2's last step: distillation of a fine-tuned network (2006.10029)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import Positive, Probability, Whole
from ssl_jax.losses.cross_entropy import cross_entropy, labelled_mean
from ssl_jax.losses.distillation import distillation
from ssl_jax.nets import DEFAULT, make_backbone
from ssl_jax.nets.functional import Net, output_shapes
from ssl_jax.nets.heads import HeadInit, mlp_head
from ssl_jax.objectives.base import Aux, Encoder, Heads, Inputs, Objective, View
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.views import fold

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class Distillation(Objective):
    """A student learns a fixed teacher's class probabilities for the same crops (section 2.3).

    The teacher is a classifier that was trained before, of any size: a run of `supervised` or a
    file, named by `train.teacher_from`.

    Attributes:
      view: crop and augmentation (count 1); only crops and flips in the paper.
      teacher_backbone: the teacher's network, with the keys of the section `backbone`; {} for the
        student's.
      temperature: temperature of both softmaxes; that of the released notebook.
      alpha: weight of the teacher (equation 3); that of the labels, where there are any, is
        1 - alpha.
      classes: number of the teacher's classes; 0 for those of the data.
      head_init: initialisation of the student's classifier.
    """

    family: ClassVar[str] = "baseline"
    needs: ClassVar[str] = "a trained classifier (train.teacher_from)"

    view: OneCrop = View(224, area=(0.08, 1.0), recipe="flip")
    teacher_backbone: Mapping[str, Any] = field(default_factory=dict)
    temperature: Positive = 1.0
    alpha: Probability = 1.0
    classes: Whole = 0
    head_init: HeadInit = "normal0.01"

    def __post_init__(self) -> None:
        super().__post_init__()
        labels = self.spec.num_classes
        if self.num_classes < 2:
            raise UserError(
                "objective.classes: the data have no labels; set it to the number of the teacher's "
                "classes, at least 2"
            )
        if self.alpha < 1 and labels != self.num_classes:
            raise UserError(
                f"objective.alpha: {self.alpha} also trains on labels, but the data have {labels} "
                f"classes and the teacher {self.num_classes}; set it to 1"
            )

    @property
    def num_classes(self) -> int:
        """Number of classes of teacher and student."""
        return self.classes or self.spec.num_classes

    @cached_property
    def head(self) -> Net:
        return mlp_head(self.feature_dim, (self.num_classes,), init=self.head_init)

    @cached_property
    def networks(self) -> Networks:
        return self.backbone_and(classifier=self.head)

    @cached_property
    def fixed_networks(self) -> Networks:
        backbone, options = self.backbone, dict(self.teacher_backbone)
        if options:
            try:
                name = str(options.pop("name", DEFAULT))
                backbone = make_backbone(name, self.spec.channels, options)
            except UserError as e:
                raise UserError(f"objective.teacher_backbone: {e}") from None
        features = output_shapes(backbone, (*self.view.sides, self.spec.channels))
        head = mlp_head(features.pooled.shape[0], (self.num_classes,))
        return Networks({"backbone": backbone, "classifier": head})

    def inputs(self) -> Inputs:
        return Inputs(views=(self.view,), label=self.alpha < 1)

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images, fixed = fold(batch["views"][0]), extra["fixed"]
        teacher = self.fixed_networks.bind(fixed["params"], fixed["stats"], train=False)
        target = jax.lax.stop_gradient(teacher.classifier(teacher.backbone(images).pooled))
        student = self.networks.bind(params, extra["stats"])
        logits = student.classifier(student.backbone(images).pooled)

        loss = self.alpha * jnp.mean(distillation(logits, target, self.temperature))
        if self.alpha < 1:
            losses = cross_entropy(logits, jnp.maximum(batch["label"], 0))
            loss = loss + (1 - self.alpha) * labelled_mean(losses, batch["label"])
        agreement = jnp.mean(jnp.argmax(logits, -1) == jnp.argmax(target, -1))
        return loss, Aux(dict(extra, stats=student.stats), metrics={"agreement": agreement})

    def encoder(self, params: Tree, extra: Tree) -> Encoder:
        """Return the student with its classifier."""
        stats = extra["stats"]["backbone"]
        classifier = Heads.of(self.head, params["classifier"])
        return Encoder(params["backbone"], stats, self.backbone, classifier=classifier)


make = Distillation.make
