"""Split-brain autoencoders (1611.09842)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp

from ssl_jax.core import config
from ssl_jax.core.ranges import Count, Positive
from ssl_jax.losses.colorization import BINS, annealed_mean, nearest_bin
from ssl_jax.losses.cross_entropy import cross_entropy
from ssl_jax.nets.functional import Net
from ssl_jax.nets.heads import mlp_head
from ssl_jax.nets.split import Split
from ssl_jax.objectives.base import Aux, Objective, Picture, Spec, View
from ssl_jax.objectives.parts import color_space
from ssl_jax.objectives.parts.networks import Bound, Networks
from ssl_jax.objectives.parts.pictures import ROWS
from ssl_jax.objectives.parts.views import fold

Array = jax.Array
Tree = Any

LEVELS = 100  # bins of the lightness, of width 1


@dataclass(frozen=True)
class SplitBrain(Objective):
    """Two disjoint networks, each of half the width: one sees the lightness of an image and
    predicts its colours, the other sees the colours and predicts the lightness. Their features,
    concatenated, are the representation.

    Attributes:
      view: crop and augmentation (count 1), with a chain whose space is "lab".
      width: factor of the configured backbone's widths in each network.
      grid: rows and columns of the predictions; the target is the image at that resolution.
      hidden: widths of hidden 1x1 convolutions of both heads (fc6 and fc7 of the paper's AlexNet).
      temperature: that of the colours in the pictures.

    Raises:
      UserError: data without colours, a chain of another space, or a width that is not whole.
    """

    family: ClassVar[str] = "pretext"
    needs: ClassVar[str] = "colour images"

    view: View = View(180, area=(0.49, 0.49), recipe="lab")
    width: Positive = 0.5
    grid: Count = 12
    hidden: tuple[Count, ...] = ()
    temperature: Positive = 0.38

    def __post_init__(self) -> None:
        super().__post_init__()
        color_space.check(self.view, self.spec.channels, "lab")

    @classmethod
    def make(cls, backbone: Net, spec: Spec, **hyper: Any) -> Self:
        """Build the method; its backbone is two scaled copies of `backbone`, for L and for ab."""
        made = config.build(cls, hyper, "objective", backbone=backbone, spec=spec)
        part = backbone.like(scale=made.width).config
        return made.with_backbone(Split(part, (1, 2)).net(3))

    @cached_property
    def networks(self) -> Networks:
        dim = color_space.map_width(self.shapes) // 2
        return self.backbone_and(
            ab=mlp_head(dim, (*self.hidden, len(BINS))),
            lightness=mlp_head(dim, (*self.hidden, LEVELS)),
        )

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images = fold(batch["views"][0])
        bins, levels = self.targets(images)
        nets = self.networks.bind(params, extra["stats"])
        ab, lightness = self.predict(nets, images)
        losses = {
            "colours": jnp.mean(cross_entropy(ab, bins)),
            "lightness": jnp.mean(cross_entropy(lightness, levels)),
        }
        return losses["colours"] + losses["lightness"], Aux({"stats": nets.stats}, metrics=losses)

    def targets(self, images: Array) -> tuple[Array, Array]:
        """Return the bins of (a, b) and of L of images (B, H, W, 3): (B, grid, grid) each."""
        size = (len(images), self.grid, self.grid, 3)
        small = jax.image.resize(color_space.units(self.view, images), size, "bilinear")
        levels = jnp.clip(jnp.floor(small[..., 0]), 0, LEVELS - 1).astype(jnp.int32)
        return nearest_bin(small[..., 1:]), levels

    def predict(self, nets: Bound, images: Array) -> tuple[Array, Array]:
        """Compute the logits (B, grid, grid, 313) of the colours, from the lightness alone, and
        those (B, grid, grid, 100) of the lightness, from the colours alone.
        """
        halves = jnp.split(nets.backbone(images).map, 2, axis=-1)
        logits = (nets.ab(halves[0]), nets.lightness(halves[1]))
        ab, lightness = (
            jax.image.resize(x, (len(x), self.grid, self.grid, x.shape[-1]), "bilinear")
            for x in logits
        )
        return ab, lightness

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        images = images[:ROWS]
        nets = self.networks.bind(params, extra["stats"], train=False)
        ab, lightness = self.predict(nets, images)
        ab = annealed_mean(ab, self.temperature)
        lightness = jax.nn.softmax(lightness) @ (jnp.arange(LEVELS) + 0.5)
        ab, lightness = (
            jax.image.resize(x, (*images.shape[:3], x.shape[-1]), "bilinear")
            for x in (ab, lightness[..., None])
        )
        truth = color_space.units(self.view, images)
        first = jnp.concatenate([truth[..., :1], ab], axis=-1)
        second = jnp.concatenate([lightness, truth[..., 1:]], axis=-1)
        rows = [color_space.normalize(self.view, x) for x in (first, second)]
        caption = (
            "One network predicts the colours from the lightness, the other the lightness from the "
            f"colours, both on a grid of {self.grid} x {self.grid}."
        )
        names = ("predicted colours", "predicted lightness", "image")
        return {"Cross-channel predictions": Picture(jnp.stack([*rows, images], 1), caption, names)}


make = SplitBrain.make
