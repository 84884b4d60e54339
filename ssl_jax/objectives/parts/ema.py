"""The slow average of a network: teacher, target network, key encoder."""

import jax
import jax.numpy as jnp

Array = jax.Array


def cosine_momentum(step: Array, total_steps: int, start: float) -> Array:
    """Momentum that rises from `start` at step 0 to 1 at `total_steps` along a half cosine.

    m_k = 1 - (1 - m_0) (1 + cos(pi k / K)) / 2 (BYOL, arXiv 2006.07733, section 3.2; also MoCo v3,
    DINO). Returns a float scalar for the int scalar `step`.
    """
    # An int32 over an int is a float32 even where float64 is enabled, and two programs need not
    # round the cosine of one alike.
    progress = jnp.minimum(jnp.asarray(step, jnp.result_type(float)) / total_steps, 1.0)
    return 1 - (1 - start) * (1 + jnp.cos(jnp.pi * progress)) / 2
