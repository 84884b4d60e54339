"""Batches for the train step: a function of the step number, made ahead in threads, put on devices.

One grain element is one host batch, so grain's cost an element (11 us) is paid once a step and
`prefetch` counts batches; the examples of a batch are read side by side, straight into the batch,
so the memory held does not grow with the number of cores.
"""

import collections
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import grain
import jax
import numpy as np

from ssl_jax.core.inputs import Inputs
from ssl_jax.data.assemble import Pool, Steps
from ssl_jax.data.decode import eval_crop
from ssl_jax.data.order import Order
from ssl_jax.data.reader import Reader
from ssl_jax.data.sources.base import Source

Batch = dict[str, Any]


@dataclass(frozen=True)
class DataConfig:
    """The section `data` of a config.

    Attributes:
      train: what to train on: "digits", "npz:/path.npz", "folder:/path".
      eval: what to evaluate on; None is the part that `train` itself holds out, if it does.
      threads: host threads that decode and crop; 0 is one a core.
      prefetch: batches made ahead.
      max_bad_fraction: the run stops at more broken images than this share, rounded up.
      channels: 1 or 3; 0 is as the data are (3 for encoded images).
    """

    train: str = "digits"
    eval: str | None = None
    threads: int = 0
    prefetch: int = 2
    max_bad_fraction: float = 0.01
    channels: int = 0


class Batches(Iterator[Batch]):
    """Iterator over host batches; `batches` makes it."""

    def __init__(self, dataset: grain.MapDataset, reader: Reader, prefetch: int) -> None:
        options = grain.ReadOptions(num_threads=min(2, prefetch), prefetch_buffer_size=prefetch)
        self._iterator = iter(dataset.to_iter_dataset(options))
        self._reader = reader

    def __next__(self) -> Batch:
        return next(self._iterator)

    @property
    def bad(self) -> int:
        """Number of broken images that this host met, and replaced, so far."""
        return len(self._reader.bad)

    def close(self) -> None:
        """Stop the threads."""
        self._iterator.close()


def batches(
    source: Source,
    inputs: Inputs,
    *,
    global_batch: int,
    seed: int,
    stop_step: int,
    start_step: int = 0,
    host: int = 0,
    hosts: int = 1,
    threads: int = 0,
    prefetch: int = 2,
    max_bad_fraction: float = 0.01,
    channels: int = 0,
) -> Batches:
    """This host's part of the batches of steps `start_step` to `stop_step - 1`.

    Each is a dict of NumPy arrays as `Inputs` describes them, with b = global_batch / hosts rows:
    `views`, a tuple of (b, count, size, size, C) uint8, one a view; `index` (b,) int32; and, with
    `inputs.label`, `label` (b,) int32 (-1 where there is none). The batch of a step depends only on
    the source, `inputs`, `global_batch`, `seed` and the step: any start and any number of hosts
    yields the same rows. `seed` and the steps are not negative.

    Raises:
      UserError: a batch larger than the data set or not divisible by the hosts; inputs that the
        source does not have; while iterating, too many broken images.
    """
    reader = Reader(source, channels, seed, max_bad_fraction)
    order = Order(len(source), global_batch, seed)
    steps = Steps(reader, inputs, order, host=host, hosts=hosts, threads=threads)
    dataset = grain.MapDataset.range(start_step, max(start_step, stop_step)).map(steps.__getitem__)
    return Batches(dataset, reader, prefetch)


def eval_arrays(
    source: Source,
    size: int,
    *,
    rows: np.ndarray | None = None,
    channels: int = 0,
    batch: int = 256,
    threads: int = 0,
    max_bad_fraction: float = 0.01,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Examples in order, centrally cropped: images (batch, size, size, C) uint8, index (batch,).

    Rows that are no example have index -1 and zero pixels: the padding of the last batch, and
    broken images, which are left out here rather than replaced.

    Args:
      rows: indices of the examples wanted; by default all.

    Raises:
      UserError: too many broken images.
    """
    reader = Reader(source, channels, max_bad_fraction=max_bad_fraction)
    pool = Pool(threads)
    rows = np.arange(len(source)) if rows is None else rows
    for first in range(0, len(rows), batch):
        images = np.zeros((batch, size, size, reader.channels), np.uint8)
        index = np.full(batch, -1, np.int32)

        def fill(row: int, first=first, images=images, index=index) -> None:
            example = int(rows[first + row])
            pixels = reader.try_pixels(example)
            if pixels is not None:
                images[row], index[row] = eval_crop(pixels, size), example

        pool.run(fill, min(batch, len(rows) - first))
        yield images, index


def to_global(batch: Batch, sharding: jax.sharding.Sharding) -> Batch:
    """Host arrays to global arrays, split by `sharding` along their first dimension."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def prefetch_to_device(
    iterator: Iterable[Batch], sharding: jax.sharding.Sharding, depth: int = 2
) -> Iterator[Batch]:
    """`to_global` of each batch, `depth` of them under way: transfers overlap with the steps."""
    queue: collections.deque[Batch] = collections.deque()
    for batch in iterator:
        queue.append(to_global(batch, sharding))
        if len(queue) >= depth:
            yield queue.popleft()
    yield from queue
