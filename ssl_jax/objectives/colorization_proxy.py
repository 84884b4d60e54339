"""Colorization as a proxy task: hue and chroma from hypercolumns (1703.04044)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core import config, rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import BelowOne, Count, NonNegative, Several, Whole
from ssl_jax.losses.colorization_proxy import (
    chroma_loss,
    histograms,
    hue_loss,
    mean_hue,
    median_chroma,
)
from ssl_jax.nets.functional import Net
from ssl_jax.nets.heads import mlp_head
from ssl_jax.nets.hypercolumns import hypercolumns
from ssl_jax.objectives.base import Aux, Objective, Picture, Spec, View
from ssl_jax.objectives.parts import color_space
from ssl_jax.objectives.parts.networks import Bound, Networks
from ssl_jax.objectives.parts.pictures import ROWS

Array = jax.Array
Tree = Any

GRID = 28  # rows and columns of predictions in the pictures, at most


@dataclass(frozen=True)
class ColorizationProxy(Objective):
    """The network sees a grey image. At a few random positions, all its layers together predict the
    histograms of hue and chroma around them.

    The paper multiplies each layer of the hypercolumns by a fixed factor and starts the hidden
    layer near 0; batch norm after the hidden layer takes the place of both here.

    Attributes:
      view: crop and augmentation (count 1), with a chain whose space is "hue_chroma".
      bins: of each histogram.
      window: side in pixels of the square around a position whose histogram is predicted, odd.
      positions: number of random positions per image.
      border: least distance of a position from the border in pixels.
      hidden: width of the hidden layer on the hypercolumns.
      dropout: share of the hidden layer that is dropped.
      hue_weight: weight of the hue's loss.

    Raises:
      UserError: data without colours, a chain of another space, an even window, more than one crop
        per image, or a border that leaves no positions.
    """

    family: ClassVar[str] = "pretext"
    needs: ClassVar[str] = "colour images"

    view: OneCrop = View(224, area=(0.4, 1.0), recipe="hue_chroma")
    bins: Several = 32
    window: Count = 7
    positions: Count = 128
    border: Whole = 32
    hidden: Count = 1024
    dropout: BelowOne = 0.5
    hue_weight: NonNegative = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        color_space.check(self.view, self.spec.channels, "hue_chroma")
        if self.window % 2 == 0:
            raise UserError(f"objective.window: {self.window} px have no middle; use an odd number")
        if 2 * self.border >= min(self.view.sides):
            raise UserError(
                f"objective.border: {self.border} px on each side leave no positions in a view of "
                f"{self.view.sides}; use at most {(min(self.view.sides) - 1) // 2}"
            )

    @classmethod
    def make(cls, backbone: Net, spec: Spec, **hyper: Any) -> Self:
        """Build the method; its backbone is a copy of `backbone` that sees the grey image alone."""
        made = config.build(cls, hyper, "objective", backbone=backbone, spec=spec)
        return made.with_backbone(color_space.lightness_alone(backbone))

    @cached_property
    def networks(self) -> Networks:
        widths = [stage.map.shape[-1] for stage in self.stage_shapes.stages if stage.map]
        return self.backbone_and(
            hidden=mlp_head(1 + sum(widths), (self.hidden,), last_norm="affine"),
            classifier=mlp_head(self.hidden, (2 * self.bins,)),
        )

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images = batch["views"][0][:, 0]
        keys = rng.per_example(key, batch["index"])
        positions = jax.vmap(self.draw)(keys)
        nets = self.networks.bind(params, extra["stats"])
        hue, chroma = self.predict(nets, images, positions, keys)
        values = color_space.units(self.view, images)
        at_positions = jax.vmap(lambda each, at: each[at[:, 0], at[:, 1]])(values, positions)
        targets = (histograms(values[..., i], positions, self.bins, self.window) for i in (1, 2))
        hue_target, chroma_target = targets
        losses = {
            "hue": hue_loss(hue, hue_target, at_positions[..., 2]),
            "chroma": chroma_loss(chroma, chroma_target, at_positions[..., 0]),
        }
        loss = self.hue_weight * losses["hue"] + losses["chroma"]
        return loss, Aux({"stats": nets.stats}, metrics=losses)

    def draw(self, key: Array) -> Array:
        """Draw positions (positions, 2) of an image: (row, column), int32."""
        high = np.array(self.view.sides, np.int32) - self.border
        return jax.random.randint(key, (self.positions, 2), self.border, high, jnp.int32)

    def predict(
        self, nets: Bound, images: Array, positions: Array, keys: Array | None = None
    ) -> tuple[Array, Array]:
        """Compute logits of the hue and of the chroma at positions (B, P, 2): (B, P, bins) each.

        Args:
          images: (B, H, W, 3), of which the network sees the grey value.
          keys: (B,), those of the dropout; None drops nothing.
        """
        maps = [stage.whole_map for stage in nets.backbone(images, stages=True).stages]
        columns = hypercolumns(images[..., :1], maps, positions)
        hidden = jax.nn.relu(nets.hidden(columns))
        if keys is not None:
            share = 1 - self.dropout
            keep = lambda key: jax.random.bernoulli(key, share, hidden.shape[1:])  # noqa: E731
            hidden = hidden * jax.vmap(lambda key: keep(rng.named(key, "dropout")))(keys) / share
        hue, chroma = jnp.split(nets.classifier(hidden), 2, axis=-1)
        return hue, chroma

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        images = images[:ROWS]
        nets = self.networks.bind(params, extra["stats"], train=False)
        height, width = (min(GRID, side) for side in images.shape[1:3])
        cells = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1)
        middles = (cells + 0.5) * np.array(images.shape[1:3]) / (height, width) - 0.5
        positions = jnp.broadcast_to(middles.reshape(-1, 2), (len(images), height * width, 2))
        hue, chroma = self.predict(nets, images, positions)
        colours = jnp.stack([mean_hue(hue), median_chroma(chroma)], axis=-1)
        colours = colours.reshape(len(images), height, width, 2)
        caption = (
            "The network sees the grey image; each hue is the mean direction of its predicted "
            "histogram, each chroma the median."
        )
        return {"Colourised images": color_space.colourised(self.view, images, colours, caption)}


make = ColorizationProxy.make
