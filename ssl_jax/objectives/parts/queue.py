"""A ring buffer of the last K keys: negatives from earlier batches (MoCo, 1911.05722)."""

from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax.core.errors import UserError
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.objectives.base import Spec

Array = jax.Array
Tree = Any


def init(key: Array, size: int, dim: int, spec: Spec) -> Tree:
    """Create a queue of `size` random unit vectors of `dim` features.

    Its state is "keys" (B, size / B, dim) and "next", the int32 index along the second axis of the
    next batch. Row i holds the keys of row i of the last size / B batches: split by rows as the
    batch is, a push moves nothing between devices. For that, name the entry of `extra` "queue" (see
    `core.sharding.DEFAULT_RULES`).

    Raises:
      UserError: `size` is not a multiple of the global batch, or is more than the data set.
    """
    batch, most = spec.global_batch, spec.num_examples // spec.global_batch * spec.global_batch
    if size < 1 or size % batch:
        near = min(max(round(size / batch) * batch, batch), most)
        raise UserError(
            f"objective.queue_size: {size} is not a multiple of the batch of {batch}; use {near}"
        )
    if size > most:
        raise UserError(
            f"objective.queue_size: {size} keys of {spec.num_examples} examples would hold an "
            f"image's own older keys as its negatives; use at most {most}"
        )
    keys = jax.random.normal(key, (batch, size // batch, dim), jnp.float32)
    return {"keys": l2_normalize(keys), "next": jnp.zeros((), jnp.int32)}


def keys(queue: Tree) -> Array:
    """Return all keys, (K, dim), in arbitrary order."""
    return queue["keys"].reshape(-1, queue["keys"].shape[-1])


def push(queue: Tree, keys: Array) -> Tree:
    """Return the queue with its oldest keys replaced by a batch of keys (B, dim)."""
    old, place = queue["keys"], queue["next"]
    new_keys = jax.lax.dynamic_update_index_in_dim(old, keys.astype(old.dtype), place, axis=1)
    return {"keys": new_keys, "next": (place + 1) % old.shape[1]}
