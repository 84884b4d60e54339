"""Colorful image colorization (1603.08511)."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp

from ssl_jax.core import config
from ssl_jax.core.ranges import Count, NonNegative, Positive, Probability
from ssl_jax.losses.colorization import (
    BINS,
    annealed_mean,
    colorization,
    rebalancing,
    soft_encode,
)
from ssl_jax.nets.convolutional import upsampler
from ssl_jax.nets.functional import Net
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, DataPass, Objective, Picture, Spec, View
from ssl_jax.objectives.parts import color_space
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.pictures import ROWS
from ssl_jax.objectives.parts.views import fold

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class Colorization(Objective):
    """The network sees the lightness of an image, and predicts the colour of each pixel as one of
    313 bins. Rare colours weigh more; how rare they are is measured in a pass over the data set
    before the first step.

    Attributes:
      view: crop and augmentation (count 1), with a chain whose space is "lab".
      stride: the target is the colour of every `stride`-th pixel; the prediction is resized to it.
      neighbours: bins in the target of a pixel: 10 in the released code, 5 in the paper.
      sigma: width of the target around the colour, in units of a and b.
      uniform: share of the uniform distribution in the prior; 1 gives all bins the same weight.
      power: exponent of the weights.
      grey: an image none of whose |a|, |b| exceeds this has weight 0.
      decoder: "upsample" doubles the sides of the backbone's map with three convolutions (conv8 of
        the released network); "linear" classifies each position of the map.
      width: channels of the upsampling decoder.
      temperature: that of the colours in the pictures.

    Raises:
      UserError: data without colours, or a chain of another space.
    """

    family: ClassVar[str] = "pretext"
    needs: ClassVar[str] = "colour images; a pass over the data set"

    view: View = View(176, area=(0.47, 0.47), recipe="lab")
    stride: Count = 4
    neighbours: Count = 10
    sigma: Positive = 5.0
    uniform: Probability = 0.5
    power: NonNegative = 1.0
    grey: NonNegative = 5.0
    decoder: Literal["upsample", "linear"] = "upsample"
    width: Count = 256
    temperature: Positive = 0.38

    def __post_init__(self) -> None:
        super().__post_init__()
        color_space.check(self.view, self.spec.channels, "lab")

    @classmethod
    def make(cls, backbone: Net, spec: Spec, **hyper: Any) -> Self:
        """Build the method; its backbone is a copy of `backbone` that sees the lightness alone."""
        made = config.build(cls, hyper, "objective", backbone=backbone, spec=spec)
        return made.with_backbone(color_space.lightness_alone(backbone))

    @cached_property
    def networks(self) -> Networks:
        dim = color_space.map_width(self.shapes)
        linear = self.decoder == "linear"
        decoder = mlp_head(dim, (len(BINS),)) if linear else upsampler(dim, self.width, len(BINS))
        return self.backbone_and(decoder=decoder)

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.networks.init(key)
        return params, {"stats": stats, "weights": jnp.ones((len(BINS),), jnp.float32)}

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images = fold(batch["views"][0])
        ab = self.colours(images)
        target = soft_encode(ab, self.neighbours, self.sigma)
        nets = self.networks.bind(params, extra["stats"])
        logits = nets.decoder(nets.backbone(images).map)
        logits = jax.image.resize(logits, target.shape, "bilinear")
        loss = colorization(logits, target, self.weigh(extra["weights"], target, ab))
        accuracy = jnp.mean(logits.argmax(-1) == target.argmax(-1))
        return loss, Aux(dict(extra, stats=nets.stats), metrics={"accuracy": accuracy})

    def colours(self, images: Array) -> Array:
        """Return the colours (a, b) of the pixels that are predicted, (B, h, w, 2)."""
        return color_space.units(self.view, images)[:, :: self.stride, :: self.stride, 1:]

    def weigh(self, weights: Array, target: Array, ab: Array) -> Array:
        """Return the weights (B, h, w): of each pixel its likeliest bin's, 0 in grey images."""
        coloured = jnp.any(jnp.abs(ab) > self.grey, axis=(1, 2, 3))
        return weights[target.argmax(-1)] * coloured[:, None, None]

    def refresh_steps(self) -> Collection[int]:
        return range(1)

    def record(self, params: Tree, extra: Tree, images: Array) -> Array:
        """Compute the frequencies (B, 313) of the colours of each image."""
        return soft_encode(self.colours(images), self.neighbours, self.sigma).mean((1, 2))

    def refresh(
        self, params: Tree, extra: Tree, features: DataPass | None, key: Array, step: Array
    ) -> tuple[Tree, Tree]:
        assert features is not None
        weights = rebalancing(jnp.sum(features.values, axis=0), self.uniform, self.power)
        return params, dict(extra, weights=weights.astype(extra["weights"].dtype))

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        images = images[:ROWS]
        nets = self.networks.bind(params, extra["stats"], train=False)
        ab = annealed_mean(nets.decoder(nets.backbone(images).map), self.temperature)
        caption = (
            "The network sees the lightness of each image; its colours are the mean of the bins "
            f"at a temperature of {self.temperature:g}."
        )
        return {"Colourised images": color_space.colourised(self.view, images, ab, caption)}


make = Colorization.make
