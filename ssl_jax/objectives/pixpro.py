"""PixPro: propagate yourself, pixel-level consistency (2011.10043)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core.ranges import Count, Range
from ssl_jax.losses.pixel_pairs import pixel_consistency
from ssl_jax.nets.functional import Net
from ssl_jax.nets.propagation import pixel_propagation
from ssl_jax.objectives.parts.networks import Bound
from ssl_jax.objectives.parts.pixel_views import PixelViews

Array = jax.Array


@dataclass(frozen=True)
class PixPro(PixelViews):
    """A pixel of one view, smoothed by the pixels that are similar to it, must equal the key
    encoder's pixels at the same place of the other view, without negatives.

    Attributes:
      transform: widths of the propagation module's layers, the last one the projector's; () is the
        identity.
      sharpness: exponent of the similarities in the propagation module.
    """

    family: ClassVar[str] = "siamese"

    transform: tuple[Count, ...] = (256,)
    sharpness: Annotated[float, Range(1)] = 2.0

    def predictors(self) -> Mapping[str, Net]:
        dim = self.projector[-1]
        return {"propagation": pixel_propagation(dim, self.transform, self.sharpness)}

    def predict(self, nets: Bound, embedded: Array) -> Array:
        propagated: Array = nets.propagation(embedded)
        return propagated

    def compare(self, queries: Array, keys: Array, positives: Array) -> Array:
        return jnp.mean(pixel_consistency(queries, keys, positives))


make = PixPro.make
