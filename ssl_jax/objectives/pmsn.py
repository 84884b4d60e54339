"""PMSN: the hidden uniform cluster prior in self-supervised learning (2210.07277)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ssl_jax.core.ranges import NonNegative
from ssl_jax.losses.cross_entropy import divergence
from ssl_jax.objectives.msn import MSN

Array = jax.Array


@dataclass(frozen=True)
class PMSN(MSN):
    """MSN for data whose classes differ in size: the mean assignment follows a power law.

    The divergence is in the direction of lightly 1.6.0, as the authors have released no code. With
    exponent 0 it is `KL(uniform || p)`, the other direction than MSN's.

    Attributes:
      exponent: of the prior, in which the k-th prototype has a share proportional to k^-exponent;
        0.25 in lightly.
    """

    exponent: NonNegative = 0.25

    @property
    def prior(self) -> Array:
        """Share of each prototype, (K,)."""
        ranks = jnp.arange(1, self.prototypes + 1, dtype=jnp.result_type(float))
        shares = ranks**-self.exponent
        return shares / jnp.sum(shares)

    def prior_divergence(self, log_mean: Array) -> Array:
        """Compute `KL(prior || p)` of the mean assignment: log p is (K,)."""
        return divergence(log_mean, self.prior)


make = PMSN.make
