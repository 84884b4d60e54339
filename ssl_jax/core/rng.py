"""Random keys: a pure function of (seed, step, name, example), never a stored generator state."""

import zlib

import jax

Array = jax.Array


def step_key(seed: Array, step: Array) -> Array:
    """The key of one training step. `seed` uint32 and `step` int32 scalars, traced: no recompile
    per seed.
    """
    return jax.random.fold_in(jax.random.key(seed), step)


def named(key: Array, name: str) -> Array:
    """An independent stream of `key` for the purpose `name`, stable over versions (crc32, not
    `hash`).
    """
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def per_example(key: Array, index: Array) -> Array:
    """One key an example, (B,) from `index` (B,) int32.

    Draws made by `vmap` over these do not depend on an example's place in the batch or on the
    device count.
    """
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
