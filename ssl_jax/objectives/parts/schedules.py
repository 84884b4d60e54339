"""Schedules inside of a loss: a value that changes from step to step."""

import jax
import jax.numpy as jnp

Array = jax.Array


def cosine(step: Array, steps: int, start: float, end: float) -> Array:
    """Compute a value that moves from `start` at step 0 to `end` at `steps` on half a cosine, and
    stays there. Returns a float scalar for the int scalar `step`.
    """
    # int32 / int is float32 even if float64 is enabled, and two programs may round the cosine of a
    # float32 differently.
    progress = jnp.minimum(jnp.asarray(step, jnp.result_type(float)) / steps, 1.0)
    return end - (end - start) * (1 + jnp.cos(jnp.pi * progress)) / 2
