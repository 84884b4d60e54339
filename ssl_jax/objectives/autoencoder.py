"""Autoencoders, plain and denoising (Vincent et al. 2010, JMLR 11:3371)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ssl_jax.augment.recipes import recipe, statistics
from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import Count, Positive, Share
from ssl_jax.losses.reconstruction import bernoulli_error, squared_error
from ssl_jax.nets.convolutional import code_decoder
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import Aux, Objective, Picture, View
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.pictures import ROWS
from ssl_jax.objectives.parts.views import fold

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class Autoencoder(Objective):
    """A decoder reconstructs the clean image from the backbone's pooled features of a corrupted
    one. These features, the network's middle, are the representation.

    Attributes:
      view: crop and augmentation (count 1).
      corruption: "masking" sets pixels to 0, the mean for a chain that subtracts it; "gaussian"
        adds noise; "none" is the plain autoencoder.
      ratio: probability that a pixel is masked.
      noise: standard deviation of the noise, in units of the normalised image.
      target: pixels that the loss is averaged over: "all" as in the paper, or the "corrupted" ones.
      likelihood: "gaussian" is the squared error, "bernoulli" the cross-entropy for pixels in
        [0, 1], as of the chains "none" and "flip".
      width: channels of the decoder at the resolution of the image; each halving doubles them.

    Raises:
      UserError: "corrupted" pixels without masking, a likelihood that does not fit the chain, or
        a view that is not 2^k times the side of the backbone's last map.
    """

    family: ClassVar[str] = "pretext"
    needs: ClassVar[str] = "a view of 2^k times the side of the backbone's last map"

    view: OneCrop = View(224, area=(0.2, 1.0), recipe="mae")
    corruption: Literal["none", "gaussian", "masking"] = "masking"
    ratio: Share = 0.25
    noise: Positive = 0.5
    target: Literal["all", "corrupted"] = "all"
    likelihood: Literal["gaussian", "bernoulli"] = "gaussian"
    width: Count = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target == "corrupted" and self.corruption != "masking":
            raise UserError(
                f"objective.target: 'corrupted' needs corruption='masking', got "
                f"{self.corruption!r}; use target='all'"
            )
        mean, std = statistics(recipe(self.view.recipe), self.spec.channels)
        if self.likelihood == "bernoulli" and (mean.any() or (std != 1).any()):
            raise UserError(
                "objective.likelihood: 'bernoulli' needs pixels in [0, 1], and the chain of the "
                "view normalises them; use view.recipe='none' or 'flip'"
            )

    def unused(self) -> dict[str, str]:
        """Return the fields that have no effect, with the reason."""
        reasons = {"ratio": "masking", "noise": "gaussian"}
        return {
            name: f"corruption is {self.corruption!r}"
            for name, corruption in reasons.items()
            if corruption != self.corruption
        }

    @cached_property
    def decoder(self) -> Net:
        grid = self.shapes.map
        if grid is None:
            raise UserError("objective: this backbone has no map; use a ResNet, ViT or Swin")
        sides, channels = self.view.sides, self.spec.channels
        return code_decoder(self.feature_dim, self.width, grid.shape[:2], sides, channels)

    @cached_property
    def networks(self) -> Networks:
        return self.backbone_and(decoder=self.decoder)

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images = fold(batch["views"][0])
        corrupted, mask = self.corrupt(rng.per_example(key, batch["index"]), images)
        nets = self.networks.bind(params, extra["stats"])
        prediction = nets.decoder(nets.backbone(corrupted).pooled)
        error = squared_error if self.likelihood == "gaussian" else bernoulli_error
        loss = error(prediction, images, mask if self.target == "corrupted" else None)
        return loss, Aux({"stats": nets.stats})

    def corrupt(self, keys: Array, images: Array) -> tuple[Array, Array]:
        """Corrupt images (B, H, W, C) with keys (B,); also return a mask (B, H, W, 1), 1 where a
        pixel was masked. All channels of a pixel are masked together.
        """
        shape = (*images.shape[1:3], 1)
        if self.corruption == "masking":
            mask = jax.vmap(lambda k: jax.random.bernoulli(k, self.ratio, shape))(keys)
            mask = mask.astype(images.dtype)
            return images * (1 - mask), mask
        mask = jnp.zeros((len(images), *shape), images.dtype)
        if self.corruption == "gaussian":
            draw = lambda k: jax.random.normal(k, images.shape[1:], images.dtype)  # noqa: E731
            return images + self.noise * jax.vmap(draw)(keys), mask
        return images, mask

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        images = images[:ROWS]
        corrupted, _ = self.corrupt(rng.per_example(key, jnp.arange(len(images))), images)
        nets = self.networks.bind(params, extra["stats"], train=False)
        prediction = nets.decoder(nets.backbone(corrupted).pooled)
        if self.likelihood == "bernoulli":
            prediction = jax.nn.sigmoid(prediction)
        rows = jnp.stack([corrupted, prediction, images], axis=1)
        caption = (
            f"The encoder turns the input into {self.feature_dim} numbers; the decoder "
            "reconstructs the whole image from these alone."
        )
        return {"Reconstructions": Picture(rows, caption, ("input", "reconstruction", "image"))}


make = Autoencoder.make
