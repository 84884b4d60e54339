"""The slow average of a network: teacher, target network, key encoder."""

import jax
import jax.numpy as jnp

Array = jax.Array


def cosine_momentum(step: Array, total_steps: int, start: float) -> Array:
    """Momentum that rises from `start` at step 0 to 1 at `total_steps` along a half cosine.

    m_k = 1 - (1 - m_0) (1 + cos(pi k / K)) / 2 (BYOL, arXiv 2006.07733, section 3.2; also MoCo v3,
    DINO). Returns a float scalar for the int scalar `step`.
    """
    progress = jnp.minimum(step / total_steps, 1.0)
    return 1 - (1 - start) * (1 + jnp.cos(jnp.pi * progress)) / 2
