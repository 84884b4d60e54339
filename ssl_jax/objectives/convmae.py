"""ConvMAE: masked convolution meets masked autoencoders (2205.03892; later MCMAE)."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import jax

from ssl_jax.core.errors import UserError
from ssl_jax.nets.backbones.convvit import Config as ConvViTConfig
from ssl_jax.objectives.mae import MAE
from ssl_jax.objectives.parts.networks import Bound, Networks

Array = jax.Array


@dataclass(frozen=True)
class ConvMAE(MAE):
    """MAE with a hybrid encoder: two stages of convolutions before the transformer.

    A convolution would carry pixels from hidden to visible patches, and the hidden ones cannot be
    dropped from its dense map. So the mask of the patches is enlarged to the two finer maps, where
    each depthwise convolution sees 0 in the hidden patches; the transformer drops them as MAE does.
    Decoder, targets and loss are MAE's.

    Raises:
      UserError: a backbone without masked convolutions, with which this is MAE.
    """

    needs: ClassVar[str] = "a ConvViT backbone"

    @cached_property
    def networks(self) -> Networks:
        if not isinstance(self.backbone.config, ConvViTConfig):
            raise UserError(
                f"backbone: {self.backbone.name} has no masked convolutions; set "
                "backbone.name='convvit', or objective.name='mae'"
            )
        return self.backbone_and(decoder=self.decoder)

    def encode(self, nets: Bound, images: Array, keep: Array) -> Array:
        """Compute tokens (B, K, D) of the patches `keep` (B, K): the transformer's output plus that
        of both stages of convolutions, normalised. There is no class token.
        """
        return nets.backbone(images, keep=keep).tokens


make = ConvMAE.make
