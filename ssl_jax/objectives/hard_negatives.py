"""Contrastive learning with hard negative samples (2010.04592)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ssl_jax.core.ranges import NonNegative
from ssl_jax.losses.hard_negatives import hard_negatives
from ssl_jax.objectives.debiased import Debiased

Array = jax.Array

STAGES = 9  # of the annealing


@dataclass(frozen=True)
class HardNegatives(Debiased):
    """The debiased loss with negatives weighted by their similarity to the anchor.

    Attributes:
      concentration: beta, exponent of the weights; with 0 the method is `debiased`.
      anneal: lower beta to 0 in nine equal stages of the run.
    """

    concentration: NonNegative = 1.0
    anneal: bool = False

    def contrast(self, z: Array, step: Array) -> Array:
        beta: float | Array = self.concentration
        if self.anneal:
            stage = jnp.minimum(step * STAGES // self.spec.total_steps, STAGES - 1)
            beta *= 1 - stage.astype(z.dtype) / (STAGES - 1)
        return hard_negatives(z, self.temperature, self.prior, beta, similarity=self.similarity)


make = HardNegatives.make
