"""The slow average of a network: teacher, target network, key encoder."""

import jax
import jax.numpy as jnp

from ssl_jax.objectives.parts.schedules import cosine

Array = jax.Array


def linear_momentum(step: Array, steps: int, start: float, end: float = 1.0) -> Array:
    """Compute a momentum that rises on a line from `start` at step 0 to `end` at `steps`, and stays
    there (I-JEPA, arXiv 2301.08243, data2vec, arXiv 2202.03555). Returns a float scalar for the int
    scalar `step`.
    """
    progress = jnp.minimum(jnp.asarray(step, jnp.result_type(float)) / steps, 1.0)
    return start + (end - start) * progress


def cosine_momentum(step: Array, total_steps: int, start: float) -> Array:
    """Compute a momentum that rises from `start` at step 0 to 1 at `total_steps` on a half cosine.

    m_k = 1 - (1 - m_0) (1 + cos(pi k / K)) / 2 (BYOL, arXiv 2006.07733, section 3.2; also MoCo v3,
    DINO). Returns a float scalar for the int scalar `step`.
    """
    return cosine(step, total_steps, start, 1.0)
