"""LocalMIM: masked image modeling with local multi-scale reconstruction (2303.05251)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import jax
import jax.numpy as jnp

from ssl_jax.augment.masks import resize_mask
from ssl_jax.augment.patches import patchify
from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, Integer, Positive
from ssl_jax.losses.hog import hog
from ssl_jax.losses.masked import masked_mse, normalize_patches
from ssl_jax.objectives.base import Aux, Picture
from ssl_jax.objectives.parts.layerwise import Layerwise
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.pictures import GLYPH, ROWS, enlarge, hide, orientations, reconstruct
from ssl_jax.objectives.parts.views import fold

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class LocalMIM(Layerwise):
    """Shallow layers predict what is hidden at fine scales, deep layers at coarse ones.

    The release runs Swin on the visible cells alone (GreenMIM's groups of windows), and hides the
    same cells in the whole batch; here a mask token replaces cells of each image.

    Attributes:
      mask_ratio, cell, decoder_*: see `parts.layerwise.Layerwise`.
      layers: decoded layers, the shallowest first; by default the second and fourth of a ViT, its
        last but two and its last. A Swin: (0, 1, 2, 3).
      scales: sides of each target's grid per side of the layer's: 4, 2, 1 or 0.5. A Swin of four
        stages: (0.5, 0.5, 0.5, 1.0), for cells of 8, 16, 32 and 32 pixels.
      target: histograms of gradients ("hog"), or the cells' pixels, normalised each by themselves.
      bins: orientations per cell and channel of "hog"; 18 for ViT-L and Swin in the release.

    Raises:
      UserError: not as many scales as layers, a grid that does not tile the view.
    """

    layers: tuple[Integer, ...] = (1, 3, -3, -1)
    scales: tuple[Positive, ...] = (4.0, 2.0, 1.0, 0.5)
    target: Literal["hog", "pixels"] = "hog"
    bins: Count = 9
    decoder_dim: Count = 256
    decoder_depth: Count = 1
    decoder_heads: Count = 8

    def unused(self) -> Mapping[str, str]:
        """See `core.config.check_used`."""
        bins = {"bins": "it needs objective.target='hog'"} if self.target == "pixels" else {}
        return {**super().unused(), **bins}

    @cached_property
    def sides(self) -> list[int]:
        """Cells along a side of the view, for each layer."""
        if len(self.scales) != len(self.taps):
            raise UserError(
                f"objective.scales: expected one for each of {len(self.taps)} layers, got "
                f"{len(self.scales)}"
            )
        sides = [tap.whole_map.shape[0] * s for tap, s in zip(self.taps, self.scales, strict=True)]
        for side, scale in zip(sides, self.scales, strict=True):
            if side < 1 or self.view.side % side:
                raise UserError(
                    f"objective.scales: {scale:g} makes {side:g} cells along a view of "
                    f"{self.view.side} px, which they do not tile; use another scale"
                )
        return [round(side) for side in sides]

    @cached_property
    def networks(self) -> Networks:
        decoders = {}
        for k, (tap, side, scale) in enumerate(
            zip(self.taps, self.sides, self.scales, strict=True)
        ):
            pixels = (self.view.side // side) ** 2
            values = self.spec.channels * (self.bins if self.target == "hog" else pixels)
            decoders[f"decoder{k + 1}"] = self.decoder(tap, values, scale, norm=True)
        return self.backbone_and(**decoders)

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images = fold(batch["views"][0])
        hidden = self.hide(rng.per_example(key, batch["index"]))
        nets = self.networks.bind(params, extra["stats"])
        predictions = self.decode(nets, self.encode(nets, images, hidden), hidden)
        losses = [
            masked_mse(prediction, target, mask)
            for prediction, target, mask in zip(
                predictions, self.targets(images), self.masks(hidden.mask), strict=True
            )
        ]
        metrics = {f"loss{k + 1}": loss for k, loss in enumerate(losses)}
        return jnp.sum(jnp.stack(losses)), Aux({"stats": nets.stats}, metrics=metrics)

    def targets(self, images: Array) -> list[Array]:
        """Return what each layer is to predict: (B, L, values) for the L cells of its scale."""
        cells = [self.view.side // side for side in self.sides]
        if self.target == "pixels":
            return [normalize_patches(patchify(images, cell)) for cell in cells]
        return [patchify(hog(images, cell, self.bins), 1) for cell in cells]

    def masks(self, mask: Array) -> list[Array]:
        """Resize a mask (B, n, n) to the cells of each scale: (B, L), the share that is hidden."""
        return [resize_mask(mask, side).reshape(len(mask), -1) for side in self.sides]

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        images = images[:ROWS]
        hidden = self.hide(rng.per_example(key, jnp.arange(len(images))))
        nets = self.networks.bind(params, extra["stats"], train=False)
        predictions = self.decode(nets, self.encode(nets, images, hidden), hidden)
        masks, targets = self.masks(hidden.mask), self.targets(images)
        visible = hide(images, hidden.mask.reshape(len(images), -1))
        if self.target == "pixels":
            columns = [
                reconstruct(images, prediction, mask, normalized=True)
                for prediction, mask in zip(predictions, masks, strict=True)
            ]
        else:
            factor = -(-GLYPH * max(self.sides) // self.view.side)
            images, visible = enlarge(images, factor), enlarge(visible, factor)
            columns = []
            for prediction, target, mask, side in zip(
                predictions, targets, masks, self.sides, strict=True
            ):
                mixed = jnp.where(mask[..., None] > 0, prediction, target)
                cells = mixed.reshape(len(images), side, side, -1)
                columns.append(orientations(cells, self.bins, images.shape[1]))
        caption = (
            f"{self.mask_ratio:.0%} of each image are hidden (grey). Each decoded layer predicts "
            "what is there at its own scale, the shallow layers in small cells and the deep ones "
            "in large cells."
        )
        names = ("input", *(tap.name for tap in self.taps), "image")
        return {"Scales": Picture(jnp.stack([visible, *columns, images], axis=1), caption, names)}


make = LocalMIM.make
