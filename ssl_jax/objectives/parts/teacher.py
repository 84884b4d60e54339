"""A frozen, pretrained network whose tokens a method learns from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import jax

from ssl_jax import nets
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import OneCrop
from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net, output_shapes
from ssl_jax.objectives.base import BACKBONE, FIXED, Objective, Probe, View
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.views import renormalize

Array = jax.Array
Tree = Any

CLIP = {"name": "vit", "size": "base", "pre_norm": True, "norm_eps": 1e-5, "mlp": "quick_gelu"}


def teacher_net(options: Mapping[str, Any], channels: int) -> Net:
    """Build the network that `objective.teacher_backbone` describes.

    Raises:
      UserError: an unknown backbone or option.
    """
    section = dict(options)
    try:
        return nets.make_backbone(section.pop("name", nets.DEFAULT), channels, section)
    except UserError as e:
        raise UserError(f"objective.teacher_backbone: {e}") from None


def teacher_width(shapes: Features, grid: tuple[int, int]) -> int:
    """Return the width of a teacher's tokens from the shapes of its outputs.

    Raises:
      UserError: it has no patches, or others than the student's `grid`.
    """
    if shapes.tokens is None or shapes.map is None:
        raise UserError("objective.teacher_backbone: a network without tokens; use a ViT or a Swin")
    rows, columns, width = shapes.map.shape
    if (rows, columns) != grid:
        raise UserError(
            f"objective.teacher_backbone: {rows} x {columns} patches per image, the student has "
            f"{grid[0]} x {grid[1]}; both must be equal"
        )
    return width


@dataclass(frozen=True)
class TokenStudent(Objective):
    """Base of methods that learn from the tokens that a frozen teacher has for the same crop.

    Attributes:
      view: crop and augmentation (count 1), the same for both.
      teacher_backbone: the network of the teacher, with the keys of the section `backbone`; by
        default CLIP's ViT-B/16. `train.teacher_from` names the run or file with its weights.
      teacher_recipe: recipe with the mean and deviation of the teacher's input: "normalize" for
        most networks, "normalize_clip" for CLIP. "" gives the teacher the student's input.

    Raises:
      UserError: a backbone without tokens, or a teacher with another grid of patches.
    """

    needs: ClassVar[str] = "a ViT or Swin backbone, a trained teacher (train.teacher_from)"
    probe: ClassVar[Probe] = Probe(pool="avg")  # the loss trains all tokens alike

    view: OneCrop = View(224, area=(0.08, 1.0), recipe="mae", interpolation="bicubic")
    teacher_backbone: Mapping[str, Any] = field(default_factory=lambda: dict(CLIP))
    teacher_recipe: str = "normalize_clip"

    @cached_property
    def teacher_net(self) -> Net:
        return teacher_net(self.teacher_backbone, self.spec.channels)

    @cached_property
    def teacher_shapes(self) -> Features:
        return output_shapes(self.teacher_net, (*self.view.sides, self.spec.channels))

    @cached_property
    def token_widths(self) -> tuple[int, int]:
        """Width of the student's and of the teacher's tokens.

        Raises:
          UserError: a network without tokens, or two grids of patches.
        """
        tokens, patches = self.shapes.tokens, self.shapes.map
        if tokens is None or patches is None:
            raise UserError("backbone: a network without tokens; use a ViT or a Swin")
        grid = patches.shape[0], patches.shape[1]
        return tokens.shape[-1], teacher_width(self.teacher_shapes, grid)

    @cached_property
    def fixed_networks(self) -> Networks:
        return Networks({BACKBONE: self.teacher_net})

    def teach(self, extra: Tree, images: Array) -> Features:
        """Compute the teacher's outputs for images (B, H, W, C) normalised for the student."""
        fixed = extra[FIXED]
        teacher = self.fixed_networks.bind(fixed["params"], fixed["stats"], train=False)
        features: Features = teacher.backbone(self.for_teacher(images))
        return features

    def for_teacher(self, images: Array) -> Array:
        """Normalise images (B, H, W, C), normalised for the student, for the teacher."""
        if not self.teacher_recipe:
            return images
        return renormalize(images, self.view.recipe, self.teacher_recipe)
