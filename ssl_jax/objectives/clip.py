"""CLIP: learning transferable visual models from natural language supervision (2103.00020)."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Positive
from ssl_jax.losses.clip import clip_loss
from ssl_jax.objectives.parts.image_text import TEMPERATURE, ImageText

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class CLIP(ImageText):
    """Images and their captions attract in a joint space; all other pairs of the batch repel.

    The temperature is learned, as the logarithm of its inverse.

    Attributes:
      max_scale: the inverse of the smallest temperature, enforced after every update.

    Raises:
      UserError: a temperature below 1 / max_scale.
    """

    max_scale: Positive = 100.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature * self.max_scale >= 1:
            raise UserError(
                f"objective.temperature: {self.temperature} is below 1 / max_scale = "
                f"{1 / self.max_scale}"
            )

    def scalars(self) -> dict[str, float]:
        return {"scale": -math.log(self.temperature)}

    def contrast(self, image: Array, text: Array, scalars: Tree) -> tuple[Array, dict[str, Array]]:
        scale = jnp.exp(scalars["scale"])
        pairs = clip_loss(image, text, scale, similarity=self.similarity)
        # Geometric mean over both directions, then mean over pairs; this needs no logits.
        return pairs, {"pair_probability": jnp.mean(jnp.exp(-pairs)), "scale": scale}

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        clamp = lambda scale: jnp.minimum(scale, math.log(self.max_scale))  # noqa: E731
        return dict(params, temperature=jax.tree.map(clamp, params[TEMPERATURE])), extra


make = CLIP.make
