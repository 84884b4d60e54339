"""FlatNCE: simpler, faster, better? Contrastive learning with small batches (2107.01152)."""

from dataclasses import dataclass

import jax

from ssl_jax.losses.flatnce import flatnce
from ssl_jax.objectives.simclr import SimCLR

Array = jax.Array


@dataclass(frozen=True)
class FlatNCE(SimCLR):
    """SimCLR whose gradient does not vanish as the positive wins: made for small batches.

    The loss reported is InfoNCE, as in the released code; its gradient is that of FlatNCE.
    """

    def contrast(self, z: Array, step: Array) -> Array:
        return flatnce(z, self.temperature, similarity=self.similarity)


make = FlatNCE.make
