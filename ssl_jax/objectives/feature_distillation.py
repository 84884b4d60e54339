"""Feature distillation: contrastive learning rivals masked image modeling in fine-tuning via
feature distillation (2205.14141).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import jax

from ssl_jax import nets
from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Positive
from ssl_jax.losses.feature_distillation import feature_distillation
from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net, output_shapes
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import FIXED, Aux, Objective, Probe, View
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.views import fold, renormalize

Array = jax.Array
Tree = Any

CLIP = {"name": "vit", "size": "base", "pre_norm": True, "norm_eps": 1e-5, "mlp": "quick_gelu"}


@dataclass(frozen=True)
class FeatureDistillation(Objective):
    """A student predicts every token of a frozen, pretrained teacher for the same crop.

    The teacher's tokens are whitened; the student is regularised by its stochastic depth
    (`backbone.drop_path`), which the teacher does not have, and by a relative position bias that
    all blocks share (`backbone.position="relative"`). The class token is learned if both networks
    have one.

    Attributes:
      view: crop and augmentation (count 1), the same for both.
      teacher_backbone: the network of the teacher, with the keys of the section `backbone`; by
        default CLIP's ViT-B/16. `train.teacher_from` names the run or file with its weights.
      teacher_recipe: recipe with the mean and deviation of the teacher's input: "normalize" for
        most networks, "normalize_clip" for CLIP. "" gives the teacher the student's input.
      beta: error at which the loss turns from a square to linear.

    Raises:
      UserError: a backbone without tokens, or a teacher with another grid of patches.
    """

    family: ClassVar[str] = "siamese"
    needs: ClassVar[str] = "a ViT or Swin backbone, a trained teacher (train.teacher_from)"
    probe: ClassVar[Probe] = Probe(pool="avg")  # the loss trains all tokens alike

    view: View = View(224, area=(0.08, 1.0), recipe="mae", interpolation="bicubic")
    teacher_backbone: Mapping[str, Any] = field(default_factory=lambda: dict(CLIP))
    teacher_recipe: str = "normalize_clip"
    beta: Positive = 2.0

    @cached_property
    def teacher_net(self) -> Net:
        options = dict(self.teacher_backbone)
        try:
            name = options.pop("name", nets.DEFAULT)
            return nets.make_backbone(name, self.spec.channels, options)
        except UserError as e:
            raise UserError(f"objective.teacher_backbone: {e}") from None

    @cached_property
    def teacher_shapes(self) -> Features:
        return output_shapes(self.teacher_net, (*self.view.sides, self.spec.channels))

    @cached_property
    def networks(self) -> Networks:
        student, teacher = self.shapes, self.teacher_shapes
        if student.tokens is None or student.map is None:
            raise UserError("backbone: a network without tokens; use a ViT or a Swin")
        if teacher.tokens is None or teacher.map is None:
            raise UserError(
                "objective.teacher_backbone: a network without tokens; use a ViT or a Swin"
            )
        own, other = student.map.shape[:2], teacher.map.shape[:2]
        if own != other:
            raise UserError(
                f"objective.teacher_backbone: {other[0]} x {other[1]} patches per image, the "
                f"student has {own[0]} x {own[1]}; both must be equal"
            )
        width, teacher_width = student.tokens.shape[-1], teacher.tokens.shape[-1]
        return self.backbone_and(decoder=mlp_head(width, (teacher_width,), init="torch"))

    @cached_property
    def fixed_networks(self) -> Networks:
        return Networks({"backbone": self.teacher_net})

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images = fold(batch["views"][0])
        fixed = extra[FIXED]
        teacher = self.fixed_networks.bind(fixed["params"], fixed["stats"], train=False)
        target = teacher.backbone(self.for_teacher(images))
        options = {"keys": rng.per_example(key, batch["index"])} if self.backbone.draws else {}
        nets = self.networks.bind(params, extra["stats"])
        prediction = nets.decoder(self.tokens(nets.backbone(images, **options)))
        loss = feature_distillation(prediction, self.tokens(target), self.beta)
        return loss, Aux(dict(extra, stats=nets.stats))

    def for_teacher(self, images: Array) -> Array:
        """Normalise images (B, H, W, C), normalised for the student, for the teacher."""
        if not self.teacher_recipe:
            return images
        return renormalize(images, self.view.recipe, self.teacher_recipe)

    def tokens(self, features: Features) -> Array:
        """Select the tokens (B, T, D) that both networks have."""
        both = self.shapes.cls is not None and self.teacher_shapes.cls is not None
        tokens = features.tokens if both else features.patches
        assert tokens is not None  # `networks` refuses others
        return tokens


make = FeatureDistillation.make
