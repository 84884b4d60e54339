"""PixContrast: the contrastive form of propagate yourself (2011.10043, section 3.1)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from ssl_jax.core.ranges import Positive
from ssl_jax.losses.pixel_pairs import pixel_contrast, pooled_pixel_contrast
from ssl_jax.objectives.parts.pixel_views import PixelViews

Array = jax.Array


@dataclass(frozen=True)
class PixContrast(PixelViews):
    """A pixel of one view must find the pixels at its place among all of the other view of the same
    image.

    No code of the paper is public; the temperature is that of a third party
    (lucidrains/pixel-level-contrastive-learning).

    Attributes:
      temperature: temperature of the softmax over similarities.
      softmax: "pixel" for a loss per pixel (the paper), "batch" for one softmax over all pairs of
        the batch (the third party's code).
    """

    family: ClassVar[str] = "contrastive"

    temperature: Positive = 0.3
    softmax: Literal["pixel", "batch"] = "pixel"

    def compare(self, queries: Array, keys: Array, positives: Array) -> Array:
        contrast = pixel_contrast if self.softmax == "pixel" else pooled_pixel_contrast
        losses = contrast(queries, keys, positives, self.temperature)
        return jnp.mean(losses) / 2  # the mean of both directions


make = PixContrast.make
