"""MAE: masked autoencoders are scalable vision learners (2111.06377)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.augment.masks import random_patches
from ssl_jax.augment.patches import patchify
from ssl_jax.core import rng
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import Count, Part
from ssl_jax.losses.masked import masked_mse, normalize_patches
from ssl_jax.nets.decoders import as_encoder, mae_decoder
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import Aux, Objective, Picture, Probe, View
from ssl_jax.objectives.parts.networks import Bound, Networks
from ssl_jax.objectives.parts.pictures import NORMALIZED, ROWS, hide, reconstruct
from ssl_jax.objectives.parts.views import fold

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class MAE(Objective):
    """The encoder sees a quarter of the patches; a small decoder reconstructs the others.

    The backbone is a ViT with fixed sin-cos positions.

    Attributes:
      view: crop and augmentation (count 1).
      mask_ratio: share of the patches that are hidden.
      norm_pixels: normalise the pixels of each target patch by their own mean and deviation.
      decoder_dim, decoder_depth, decoder_heads: sizes of the decoder.
    """

    family: ClassVar[str] = "masked"
    needs: ClassVar[str] = "a ViT backbone"
    decays: ClassVar[str] = r"(cls|mask)_token$"  # the release counts axes, and these have three
    # The loss trains the patches; a class token only as far as they attend to it.
    probe: ClassVar[Probe] = Probe(pool="avg")

    view: OneCrop = View(224, area=(0.2, 1.0), recipe="mae", interpolation="bicubic")
    mask_ratio: Part = 0.75
    norm_pixels: bool = True
    decoder_dim: Count = 512
    decoder_depth: Count = 8
    decoder_heads: Count = 16

    @cached_property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return self.view.side // self.patch_grid[0]

    @cached_property
    def decoder(self) -> Net:
        side, width = self.patch_grid
        return mae_decoder(
            width,
            dim=self.decoder_dim,
            depth=self.decoder_depth,
            heads=self.decoder_heads,
            grid=(side, side),
            out_dim=self.patch**2 * self.spec.channels,
            cls_token=self.shapes.cls is not None,
            **as_encoder(self.backbone),
        )

    @cached_property
    def networks(self) -> Networks:
        return self.backbone_and(decoder=self.decoder)

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images = fold(batch["views"][0])
        keep, mask, restore = self.masking(rng.per_example(key, batch["index"]))
        nets = self.networks.bind(params, extra["stats"])
        tokens = self.encode(nets, images, keep)
        prediction = self.decode(nets, tokens, restore)
        return masked_mse(prediction, self.targets(images), mask), Aux({"stats": nets.stats})

    def masking(self, keys: Array) -> tuple[Array, Array, Array]:
        """Draw the patches to keep with keys (B,); see `augment.masks.random_masking`."""
        return random_patches(keys, self.patch_grid[0] ** 2, self.mask_ratio)

    def encode(self, nets: Bound, images: Array, keep: Array) -> Array:
        """Compute tokens (B, T, D) of the patches `keep` (B, K), after the class token if any."""
        return nets.backbone(images, keep=keep).tokens

    def decode(self, nets: Bound, tokens: Array, restore: Array) -> Array:
        """Predict every patch, (B, N, pixels), from the tokens of the visible ones."""
        return nets.decoder(tokens, restore)

    def targets(self, images: Array) -> Array:
        """Return the patches (B, N, pixels) to predict, normalised each by itself if requested."""
        patches = patchify(images, self.patch)
        return normalize_patches(patches) if self.norm_pixels else patches

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        images = images[:ROWS]
        keys = rng.per_example(key, jnp.arange(len(images)))
        keep, mask, restore = self.masking(keys)
        nets = self.networks.bind(params, extra["stats"], train=False)
        prediction = self.decode(nets, self.encode(nets, images, keep), restore)
        visible = hide(images, mask)
        reconstruction = reconstruct(images, prediction, mask, self.norm_pixels)
        rows = [visible, reconstruction, images]
        caption = (
            f"{self.mask_ratio:.0%} of the patches of each image are hidden (grey); the decoder "
            "reconstructs them from the encoder's features of the others."
        )
        if self.norm_pixels:
            caption += NORMALIZED
        names = ("input", "reconstruction", "image")
        return {"Reconstructions": Picture(jnp.stack(rows, axis=1), caption, names)}


make = MAE.make
