"""DCL: decoupled contrastive learning (2110.06848)."""

from dataclasses import dataclass

import jax

from ssl_jax.core.ranges import Positive
from ssl_jax.losses.decoupled import decoupled
from ssl_jax.objectives.simclr import SimCLR

Array = jax.Array


@dataclass(frozen=True)
class DCL(SimCLR):
    """SimCLR without the positive in the denominator, which couples its gradient to the batch size.

    Attributes:
      sigma: of the weights of the positives (DCLW), 0.5 in the released code; None is DCL.
    """

    sigma: Positive | None = None

    def contrast(self, z: Array, step: Array) -> Array:
        return decoupled(z, self.temperature, self.sigma, similarity=self.similarity)


make = DCL.make
