"""MaskFeat: masked feature prediction for self-supervised visual pre-training (2112.09133)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.augment.patches import patchify, unpatchify
from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import Count, Part
from ssl_jax.losses.hog import hog
from ssl_jax.losses.masked import masked_mse
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Objective, Picture, Probe, View
from ssl_jax.objectives.parts.block_masks import block_masks, hidden_patches
from ssl_jax.objectives.parts.networks import Bound, Networks
from ssl_jax.objectives.parts.pictures import GLYPH, ROWS, enlarge, orientations
from ssl_jax.objectives.parts.views import fold

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class MaskFeat(Objective):
    """A mask token hides blocks of patches; a linear layer on the encoder's output predicts the
    histograms of oriented gradients (HOG) there.

    The backbone is a ViT with a mask token (`backbone.mask_token=True`).

    Attributes:
      view: crop and augmentation (count 1).
      mask_ratio: share of the patches to hide, in blocks; see `augment.masks.block_mask`.
      min_patches: smallest number of patches of a block. The release: a fifth of those to hide.
      cell: side of a cell of HOG in pixels, a divisor of the patch.
      bins: orientations per cell and channel; see `losses.hog`.

    Raises:
      UserError: cells that do not tile a patch, more `min_patches` than patches to hide.
    """

    family: ClassVar[str] = "masked"
    needs: ClassVar[str] = "a ViT backbone with a mask token"
    decays: ClassVar[str] = r"(cls_token|mask_token|pos_embed)$"  # three axes in the release
    # The loss trains the patches; a class token only as far as they attend to it.
    probe: ClassVar[Probe] = Probe(pool="avg")

    view: OneCrop = View(224, area=(0.5, 1.0), recipe="mae", interpolation="bicubic")
    mask_ratio: Part = 0.4
    min_patches: Count = 15
    cell: Count = 8
    bins: Count = 9

    @cached_property
    def grid(self) -> tuple[int, int]:
        return (self.patch_grid[0],) * 2

    @cached_property
    def cells(self) -> int:
        """Number of cells along a side of a patch."""
        patch = self.view.side // self.grid[0]
        if patch % self.cell:
            raise UserError(
                f"objective.cell: cells of {self.cell} px do not tile a patch of {patch} px; use a "
                "divisor"
            )
        return patch // self.cell

    @cached_property
    def networks(self) -> Networks:
        hidden_patches(self.grid, self.mask_ratio, self.min_patches)  # raises if too few
        values = self.cells**2 * self.spec.channels * self.bins
        return self.backbone_and(head=mlp_head(self.patch_grid[1], (values,), init="normal0.02"))

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images = fold(batch["views"][0])
        mask = self.masks(rng.per_example(key, batch["index"]))
        nets = self.networks.bind(params, extra["stats"])
        prediction = self.predict(nets, self.encode(nets, images, mask))
        hidden = mask.reshape(len(mask), -1)
        return masked_mse(prediction, self.targets(images), hidden), Aux({"stats": nets.stats})

    def masks(self, keys: Array) -> Array:
        """Draw masks (B, rows, columns), bool, of the patches to hide with keys (B,)."""
        return block_masks(keys, self.grid, self.mask_ratio, self.min_patches)

    def encode(self, nets: Bound, images: Array, mask: Array) -> Array:
        """Compute all patches (B, N, D), with the mask token in the hidden ones."""
        return nets.backbone(images, mask=mask).patches

    def predict(self, nets: Bound, patches: Array) -> Array:
        """Predict the histograms of each patch, (B, N, values)."""
        return nets.head(patches)

    def targets(self, images: Array) -> Array:
        """Return the histograms of each patch (B, N, values), in the order (row, column, channel,
        bin). The release has the cells' row and column last.
        """
        return patchify(hog(images, self.cell, self.bins), self.cells)

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        images = images[:ROWS]
        mask = self.masks(rng.per_example(key, jnp.arange(len(images))))
        nets = self.networks.bind(params, extra["stats"], train=False)
        prediction, target = (
            self.predict(nets, self.encode(nets, images, mask)),
            self.targets(images),
        )
        mixed = jnp.where(mask.reshape(len(mask), -1, 1), prediction, target)
        images = enlarge(images, -(-GLYPH // self.cell))
        height = images.shape[1]
        visible = images * ~enlarge(mask[..., None], height // self.grid[0])
        pictures = [
            orientations(unpatchify(cells, self.cells), self.bins, height)
            for cells in (mixed, target)
        ]
        caption = (
            f"{self.mask_ratio:.0%} of the patches of each image are hidden in blocks (grey), and "
            "the network predicts the histograms of gradients there. Each cell shows its "
            "histogram as lines along the edges."
        )
        names = ("input", "prediction", "target", "image")
        rows = jnp.stack([visible, *pictures, images], axis=1)
        return {"Orientations": Picture(rows, caption, names)}


make = MaskFeat.make
