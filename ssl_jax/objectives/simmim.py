"""SimMIM: a simple framework for masked image modeling (2111.09886)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.augment.masks import random_cells
from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import Count, Share
from ssl_jax.losses.masked import masked_l1
from ssl_jax.nets.decoders import pixel_decoder
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import Aux, Objective, Picture, Probe, View
from ssl_jax.objectives.parts.networks import Bound, Networks
from ssl_jax.objectives.parts.pictures import ROWS
from ssl_jax.objectives.parts.views import fold

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class SimMIM(Objective):
    """A mask token hides large cells; a linear layer on the encoder's output predicts their pixels.

    The backbone is a ViT or a Swin with a mask token (`backbone.mask_token=True`).

    Attributes:
      view: crop and augmentation (count 1).
      mask_ratio: share of the cells that are hidden, rounded up.
      cell: side of a cell in pixels, a multiple of the backbone's patches.

    Raises:
      UserError: cells that do not tile the view, a ratio out of range.
    """

    family: ClassVar[str] = "masked"
    needs: ClassVar[str] = "a ViT or Swin backbone with a mask token"
    # The loss trains the patches; a class token only as far as they attend to it.
    probe: ClassVar[Probe] = Probe(pool="avg")

    view: OneCrop = View(192, area=(0.67, 1.0), recipe="mae")
    mask_ratio: Share = 0.6
    cell: Count = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.view.side % self.cell:
            raise UserError(
                f"objective.cell: {self.cell} px do not tile a view of {self.view.side} px; use a "
                "divisor"
            )

    @cached_property
    def decoder(self) -> Net:
        side, width = self.patch_grid
        return pixel_decoder(width, self.view.side // side, self.spec.channels)

    @cached_property
    def networks(self) -> Networks:
        return self.backbone_and(decoder=self.decoder)

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images = fold(batch["views"][0])
        mask = self.masks(rng.per_example(key, batch["index"]))
        nets = self.networks.bind(params, extra["stats"])
        prediction = self.predict(nets, self.encode(nets, images, mask))
        return masked_l1(prediction, images, mask), Aux({"stats": nets.stats})

    def masks(self, keys: Array) -> Array:
        """Draw masks (B, cells, cells) with keys (B,), 1 where a cell is hidden."""
        return random_cells(keys, self.view.side // self.cell, self.mask_ratio)

    def encode(self, nets: Bound, images: Array, mask: Array) -> Array:
        """Compute the map (B, h, w, D) of all patches, with the mask token in the hidden cells."""
        return nets.backbone(images, mask=mask).map

    def predict(self, nets: Bound, features: Array) -> Array:
        """Predict the images (B, H, W, C) from the map."""
        return nets.decoder(features)

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        images = images[:ROWS]
        keys = rng.per_example(key, jnp.arange(len(images)))
        mask = self.masks(keys)
        nets = self.networks.bind(params, extra["stats"], train=False)
        prediction = self.predict(nets, self.encode(nets, images, mask))
        mask = mask.repeat(self.cell, axis=1).repeat(self.cell, axis=2)[..., None]
        visible = images * (1 - mask)
        rows = jnp.stack([visible, visible + prediction * mask, images], axis=1)
        caption = (
            f"{self.mask_ratio:.0%} of the cells of each image are hidden (grey): a mask token "
            "replaces them, and a linear layer on the encoder's output predicts their pixels."
        )
        names = ("input", "reconstruction", "image")
        return {"Reconstructions": Picture(rows, caption, names)}


make = SimMIM.make
