"""Random keys as pure functions of (seed, step, name, example), without generator state."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def step_key(seed: Array, step: Array) -> Array:
    """Return the key of one training step. `seed` uint32 and `step` int32 are traced scalars, so a
    new seed does not recompile.
    """
    return jax.random.fold_in(jax.random.key(seed), step)


def named(key: Array, name: str) -> Array:
    """Derive an independent key for `name`, stable over versions (crc32, not `hash`)."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def per_example(key: Array, index: Array) -> Array:
    """Derive one key per example, (B,) from `index` (B,) int32.

    Draws made by `vmap` over these keys do not depend on an example's place in the batch or on the
    device count.
    """
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


def log_uniform(key: Array, limits: tuple[float, float], shape: tuple[int, ...] = ()) -> Array:
    """Draw numbers whose logarithm is uniform between those of `limits`."""
    low, high = np.log(np.array(limits, np.float32))
    return jnp.exp(low + (high - low) * jax.random.uniform(key, shape))


def symmetric(key: Array, limit: float, shape: tuple[int, ...] = ()) -> Array:
    """Draw numbers uniform in [-limit, limit]."""
    return limit * jax.random.uniform(key, shape, minval=-1.0)
