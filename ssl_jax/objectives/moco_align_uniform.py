"""Alignment and uniformity with MoCo's queue (2005.10242), as in SsnL/moco_align_uniform."""

from dataclasses import dataclass

import jax

from ssl_jax.core.ranges import NonNegative, Positive
from ssl_jax.losses.align_uniform import alignment, uniformity
from ssl_jax.objectives.moco_v2 import MoCoV2

Array = jax.Array


@dataclass(frozen=True)
class MoCoAlignUniform(MoCoV2):
    """A query comes close to its key, and queries spread over the sphere, away from each other and
    from the queue. Queue and key encoder are those of `moco_v1`.

    Attributes:
      alpha: exponent of the distance between query and key.
      t: factor of the squared distances; one mean is over the pairs of queries and the pairs of
        query and queue.
      align_weight, uniform_weight: weights of the two terms.
      contrast_weight: weight of MoCo's own loss, with `temperature`; the paper compares with it.
    """

    alpha: Positive = 2.0
    t: Positive = 3.0
    align_weight: NonNegative = 3.0
    uniform_weight: NonNegative = 1.0
    contrast_weight: NonNegative = 0.0

    def unused(self) -> dict[str, str]:
        """See `core.config.check_used`."""
        none = {"temperature": "there is no softmax; set contrast_weight"}
        return {} if self.contrast_weight else none

    def contrast(self, queries: Array, keys: Array, negatives: Array) -> Array:
        spread = uniformity(queries, self.t, negatives, similarity=self.similarity)
        align = alignment(queries, keys, self.alpha)
        loss = self.align_weight * align + self.uniform_weight * spread
        if self.contrast_weight:
            loss += self.contrast_weight * super().contrast(queries, keys, negatives)
        return loss


make = MoCoAlignUniform.make
