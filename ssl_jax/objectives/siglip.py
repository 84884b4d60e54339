"""SigLIP: sigmoid loss for language image pre-training (2303.15343)."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax.core.ranges import Count, Finite, Positive
from ssl_jax.losses.siglip import siglip
from ssl_jax.objectives.parts.image_text import ImageText

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class SigLIP(ImageText):
    """Every pair of an image and a caption of the batch is classified by itself as matching or not,
    so no softmax compares the pairs with each other.

    Temperature and bias are learned. The towers are CLIP's; the released models pool the image by
    attention and read the text without a causal mask.

    Attributes:
      temperature: as in `parts.image_text`; 0.1 is the paper's t = 10.
      bias: initial bias of the logits. Nearly all pairs of a batch do not match, so training starts
        with a prediction close to that.
    """

    context: Count = 64
    dim: Count = 768
    text_dim: Count = 768
    text_heads: Count = 12
    temperature: Positive = 0.1
    bias: Finite = -10.0

    def scalars(self) -> dict[str, float]:
        return {"scale": -math.log(self.temperature), "bias": self.bias}

    def contrast(self, image: Array, text: Array, scalars: Tree) -> tuple[Array, dict[str, Array]]:
        scale, bias = jnp.exp(scalars["scale"]), scalars["bias"]
        rows = siglip(image, text, scale, bias, similarity=self.similarity)
        return rows, {"scale": scale, "bias": bias}


make = SigLIP.make
