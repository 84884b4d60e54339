"""SimMIM: a simple framework for masked image modeling (2111.09886)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.augment.masks import simmim_mask
from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.losses.simmim import masked_l1
from ssl_jax.nets.decoders import pixel_decoder
from ssl_jax.nets.functional import Net, init_all
from ssl_jax.objectives.base import Aux, Objective, View
from ssl_jax.objectives.parts.views import fold

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class SimMIM(Objective):
    """A mask token hides large cells; a linear layer on the encoder's output paints their pixels.

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

    view: View = View(192, area=(0.67, 1.0), recipe="mae")
    mask_ratio: float = 0.6
    cell: int = 32

    def __post_init__(self) -> None:
        if self.cell < 1 or self.view.size % self.cell:
            raise UserError(
                f"objective.cell: {self.cell} px do not tile a view of {self.view.size} px; use a "
                "divisor"
            )
        if not 0 < self.mask_ratio <= 1:
            raise UserError(f"objective.mask_ratio: {self.mask_ratio} is not in (0, 1]")

    @cached_property
    def decoder(self) -> Net:
        side, width = self.patch_grid
        return pixel_decoder(width, self.view.size // side, self.spec.channels)

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = init_all(key, backbone=self.backbone, decoder=self.decoder)
        return params, {"stats": stats}

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images = fold(batch["views"][0])
        cells = self.view.size // self.cell
        keys = rng.per_example(key, batch["index"])
        order = jax.vmap(lambda k: jax.random.permutation(k, cells * cells))(keys)
        mask = simmim_mask(order, self.mask_ratio, cells, cells, scale=1)

        stats = dict(extra["stats"])
        seen, stats["backbone"] = self.backbone.apply(
            params["backbone"],
            stats["backbone"],
            images,
            mask=mask,
            train=True,
            microbatches=self.microbatches,
        )
        side, width = self.patch_grid
        patches = jnp.reshape(seen["patches"], (len(images), side, side, width))
        painted, stats["decoder"] = self.decoder.apply(
            params["decoder"], stats["decoder"], patches, train=True
        )
        return masked_l1(painted, images, mask), Aux({"stats": stats})


make = SimMIM.make
