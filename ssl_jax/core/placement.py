"""Transfer of arrays from the host to the devices of a mesh, and back."""

import collections
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ssl_jax.core.errors import UserError


def to_global(batch: Any, sharding: jax.sharding.Sharding) -> Any:
    """Build global arrays, split by `sharding` along the first dimension, from each process's part,
    a tree of host arrays.
    """
    with jax.transfer_guard_host_to_device("allow"):  # with several processes it is not "explicit"
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def place(whole: Any, sharding: jax.sharding.Sharding) -> Any:
    """Build global arrays with `sharding` from host arrays that every process has whole."""
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, sharding, x.__getitem__), whole
    )


def gather(tree: Any) -> Any:
    """Gather global arrays as whole NumPy arrays in every process."""
    return multihost_utils.process_allgather(tree, tiled=True)


def whole(tree: Any) -> Any:
    """Return arrays as whole NumPy arrays in every process, all of which must call this: those that
    are split over processes are gathered, the others are copied.
    """

    def on_host(x: Any) -> np.ndarray:
        split = isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated)
        return np.asarray(gather(x) if split else x)

    return jax.tree.map(on_host, tree)


def prefetch_to_device(
    iterator: Iterable[Any], sharding: jax.sharding.Sharding, depth: int = 2
) -> Iterator[Any]:
    """Apply `to_global` to each batch, `depth` batches ahead: transfers overlap with the steps."""
    queue: collections.deque[Any] = collections.deque()
    for batch in iterator:
        queue.append(to_global(batch, sharding))
        if len(queue) >= depth:
            yield queue.popleft()
    yield from queue


def replicate(
    sets: tuple[np.ndarray, ...], replicated: jax.sharding.Sharding
) -> tuple[jax.Array, ...]:
    """Copy whole arrays, which every process has, to each device; identical objects only once.

    Raises:
      UserError: they take more than half of a device's memory, if its size is known.
    """
    unique = {id(array): array for array in sets}
    need = sum(array.nbytes for array in unique.values())
    room = _device_memory(jax.local_devices()[0])
    if room is not None and 2 * need > room:
        raise UserError(
            f"data.cache=device: the images take {need / 2**30:.1f} GiB, more than half of the "
            f"device's {room / 2**30:.1f} GiB; use data.cache=none"
        )
    placed = place(unique, replicated)
    return tuple(placed[id(array)] for array in sets)


def _device_memory(device: jax.Device) -> int | None:
    """Return the memory in bytes, or None if the backend does not report it."""
    return (device.memory_stats() or {}).get("bytes_limit")
