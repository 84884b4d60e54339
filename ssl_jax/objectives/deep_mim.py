"""DeepMIM: deep supervision for masked image modeling (2303.08817)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import jax
import jax.numpy as jnp

from ssl_jax.augment.masks import resize_mask
from ssl_jax.augment.patches import patchify
from ssl_jax.core import rng
from ssl_jax.core.ranges import Count, Integer
from ssl_jax.losses.masked import masked_cosine, masked_mse, normalize_patches
from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net, output_shapes
from ssl_jax.objectives.base import FIXED, Aux, Picture
from ssl_jax.objectives.parts.layerwise import Layerwise
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.pictures import NORMALIZED, ROWS, hide, reconstruct
from ssl_jax.objectives.parts.teacher import CLIP, teacher_net, teacher_width
from ssl_jax.objectives.parts.views import fold, renormalize

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class DeepMIM(Layerwise):
    """Inner layers predict the same as the last one, each by its own decoder. After training the
    decoders are dropped.

    The release predicts features of CLIP on MAE's encoder, after CLIP's projection to 512 channels;
    here they are those before it. It has no code for pixels: these losses are MAE's, on every
    layer. The paper's hybrid targets (smoother pixels for the inner layers) are left out.

    Attributes:
      mask_ratio, cell, decoder_*: see `parts.layerwise.Layerwise`.
      layers: decoded layers, the shallowest first; by default blocks 6, 8, 10 and 12.
      target: "features" of a pretrained teacher for the whole image (`train.teacher_from`), or
        "pixels".
      norm_pixels: normalise the pixels of each target patch by their own mean and deviation.
      teacher_backbone: the network of the teacher, with the keys of the section `backbone`; by
        default CLIP's ViT-B/16.
      teacher_recipe: recipe with the mean and deviation of the teacher's input; "" gives the
        teacher the student's input.

    Raises:
      UserError: a teacher without patches, or with another grid of patches than the layers'.
    """

    layers: tuple[Integer, ...] = (5, 7, 9, -1)
    target: Literal["features", "pixels"] = "features"
    norm_pixels: bool = True
    teacher_backbone: Mapping[str, Any] = field(default_factory=lambda: dict(CLIP))
    teacher_recipe: str = "normalize_clip"
    decoder_depth: Count = 4

    def unused(self) -> Mapping[str, str]:
        """See `core.config.check_used`."""
        if self.target == "features":
            return {**super().unused(), "norm_pixels": "it needs objective.target='pixels'"}
        names = ("teacher_backbone", "teacher_recipe")
        return {**super().unused(), **dict.fromkeys(names, "it needs objective.target='features'")}

    @cached_property
    def sides(self) -> list[int]:
        """Patches along a side of the view, for each layer."""
        return [tap.whole_map.shape[0] for tap in self.taps]

    @cached_property
    def teacher_net(self) -> Net:
        return teacher_net(self.teacher_backbone, self.spec.channels)

    @cached_property
    def teacher_shapes(self) -> Features:
        return output_shapes(self.teacher_net, (*self.view.sides, self.spec.channels))

    @cached_property
    def networks(self) -> Networks:
        decoders = {}
        for k, (tap, side) in enumerate(zip(self.taps, self.sides, strict=True)):
            if self.target == "features":
                values = teacher_width(self.teacher_shapes, (side, side))
            else:
                values = (self.view.side // side) ** 2 * self.spec.channels
            decoders[f"decoder{k + 1}"] = self.decoder(tap, values)
        return self.backbone_and(**decoders)

    @cached_property
    def fixed_networks(self) -> Networks | None:
        return Networks({"backbone": self.teacher_net}) if self.target == "features" else None

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images = fold(batch["views"][0])
        hidden = self.hide(rng.per_example(key, batch["index"]))
        nets = self.networks.bind(params, extra["stats"])
        predictions = self.decode(nets, self.encode(nets, images, hidden), hidden)
        distance = masked_cosine if self.target == "features" else masked_mse
        losses = [
            distance(prediction, target, mask)
            for prediction, target, mask in zip(
                predictions, self.targets(extra, images), self.masks(hidden.mask), strict=True
            )
        ]
        metrics = {f"loss{k + 1}": loss for k, loss in enumerate(losses)}
        return jnp.sum(jnp.stack(losses)), Aux(dict(extra, stats=nets.stats), metrics=metrics)

    def targets(self, extra: Tree, images: Array) -> list[Array]:
        """Return what each layer is to predict, (B, L, values)."""
        if self.target == "features":
            return [self.features(extra, images)] * len(self.sides)
        patches = [patchify(images, self.view.side // side) for side in self.sides]
        return [normalize_patches(x) for x in patches] if self.norm_pixels else patches

    def features(self, extra: Tree, images: Array) -> Array:
        """Compute the teacher's patches (B, L, D) of the whole image."""
        fixed, networks = extra[FIXED], self.fixed_networks
        assert networks is not None
        teacher = networks.bind(fixed["params"], fixed["stats"], train=False)
        if self.teacher_recipe:
            images = renormalize(images, self.view.recipe, self.teacher_recipe)
        return teacher.backbone(images).patches

    def masks(self, mask: Array) -> list[Array]:
        """Resize a mask (B, n, n) to the patches of each layer: (B, L)."""
        return [resize_mask(mask, side).reshape(len(mask), -1) for side in self.sides]

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        if self.target == "features":
            return {}
        images = images[:ROWS]
        hidden = self.hide(rng.per_example(key, jnp.arange(len(images))))
        nets = self.networks.bind(params, extra["stats"], train=False)
        predictions = self.decode(nets, self.encode(nets, images, hidden), hidden)
        masks = self.masks(hidden.mask)
        columns = [
            reconstruct(images, prediction, mask, self.norm_pixels)
            for prediction, mask in zip(predictions, masks, strict=True)
        ]
        rows = jnp.stack([hide(images, masks[-1]), *columns, images], axis=1)
        caption = (
            f"{self.mask_ratio:.0%} of each image are hidden (grey). A decoder on each of these "
            "layers reconstructs it."
        )
        if self.norm_pixels:
            caption += NORMALIZED
        names = ("input", *(tap.name for tap in self.taps), "image")
        return {"Reconstructions": Picture(rows, caption, names)}


make = DeepMIM.make
