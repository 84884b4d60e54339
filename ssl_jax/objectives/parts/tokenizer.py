"""A tokenizer that was trained before: the fixed network of methods that predict codes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax

from ssl_jax.core.config import check
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, Whole
from ssl_jax.nets import DEFAULT, make_backbone
from ssl_jax.nets.codes import code_head
from ssl_jax.nets.functional import output_shapes
from ssl_jax.objectives.base import BACKBONE, TOKENIZER, Encoder, ImageTokenizer
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.views import renormalize

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class FixedTokenizer:
    """A tokenizer that a method learns from: a run of any method whose encoder has one, or a file
    of such a run, that `train.teacher_from` names.

    Attributes:
      backbone: its network, with the keys of the section `backbone`.
      vocabulary: number of its codes.
      code_dim: width of its codebook, 0 for logits; see `nets.codes.code_head`.
      size: side of the images that it reads; 0 for that of the view. The view is resized.
      recipe: recipe with the mean and deviation of its input; "" for those of the view.
    """

    backbone: Mapping[str, Any] = field(default_factory=dict)
    vocabulary: Count = 8192
    code_dim: Whole = 0
    size: Whole = 0
    recipe: str = ""

    def __post_init__(self) -> None:
        check(self, "objective.tokenizer")

    def networks(self, sides: tuple[int, int], channels: int, grid: tuple[int, int]) -> Networks:
        """Build the networks "backbone" and "tokenizer" for views of these sides and a method with
        `grid` patches (down, across).

        Raises:
          UserError: an invalid backbone, or one with another grid.
        """
        options = dict(self.backbone)
        try:
            net = make_backbone(str(options.pop("name", DEFAULT)), channels, options)
            sides = (self.size, self.size) if self.size else sides
            places = output_shapes(net, (*sides, channels)).map
        except UserError as e:
            raise UserError(f"objective.tokenizer.backbone: {e}") from None
        if places is None or places.shape[:2] != grid:
            own = "no map" if places is None else "{} x {} codes".format(*places.shape[:2])
            raise UserError(
                f"objective.tokenizer.size: {own} for images of {sides[0]} x {sides[1]} px, but "
                f"the backbone has {grid[0]} x {grid[1]} patches; both must be equal"
            )
        head = code_head(places.shape[2], self.vocabulary, self.code_dim)
        return Networks({BACKBONE: net, TOKENIZER: head})

    def codes(self, networks: Networks, fixed: Tree, images: Array, recipe: Any) -> Array:
        """Return the codes (B, h, w) int32 of images (B, H, W, C), which are normalised by
        `recipe`.

        Args:
          networks: those of `networks`.
          fixed: their weights, `extra[FIXED]`.
        """
        if self.recipe:
            images = renormalize(images, recipe, self.recipe)
        if self.size:
            shape = (len(images), self.size, self.size, images.shape[-1])
            images = jax.image.resize(images, shape, "lanczos3")
        params, stats, nets = fixed["params"], fixed["stats"], networks.nets
        head = ImageTokenizer(params[TOKENIZER], nets[TOKENIZER])
        encoder = Encoder(params[BACKBONE], stats[BACKBONE], nets[BACKBONE], tokenizer=head)
        return jax.lax.stop_gradient(encoder.codes(images))
