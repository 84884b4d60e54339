"""Host batches by step number: indices, pixels, crops."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Inputs, View
from ssl_jax.data.decode import TRIES, crop_resize, random_box, resize, to_channels
from ssl_jax.data.draws import uniform
from ssl_jax.data.order import Order
from ssl_jax.data.reader import Reader


class Steps:
    """Random access to this host's batches: `steps[step]` is a pure function of the step.

    The random crops of an example are drawn from (seed, epoch, index, view group, view). Images in
    memory that are not cropped (area (1, 1)) are resized once, and batches sliced from the result.

    Args:
      reader: gives the pixels of an example.
      inputs: what a batch holds.
      order: which examples a step sees.
      host, hosts: which contiguous part of each global batch to make.
      threads: examples of a batch are read side by side in so many; 0 is one a core.

    Raises:
      UserError: inputs that the source does not have, or a batch that the hosts do not divide.
    """

    def __init__(
        self,
        reader: Reader,
        inputs: Inputs,
        order: Order,
        *,
        host: int = 0,
        hosts: int = 1,
        threads: int = 0,
    ) -> None:
        for field in ("text", "frames", "streams"):
            if getattr(inputs, field):
                raise UserError(f"{reader.source.name} has no {field}, which this method needs")
        order.indices(0, host, hosts)  # complains now of a batch that does not divide
        self._reader, self._inputs, self._order = reader, inputs, order
        self._host, self._hosts = host, hosts
        self._pool = Pool(threads)
        labels = reader.source.labels
        self._labels = np.full(len(reader.source), -1, np.int32) if labels is None else labels
        self._resized = _resize_all(reader, inputs.views)

    def __getitem__(self, step: int) -> dict:
        index = self._order.indices(step, self._host, self._hosts)
        views, pixels_of = self._views(index, self._order.epoch(step))
        batch = {"views": views, "index": index}
        if self._inputs.label:
            batch["label"] = self._labels[pixels_of]
        return batch

    def _views(self, index: np.ndarray, epoch: int) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """The views, and the indices that their pixels are of (`index`, but for broken images)."""
        views, cropped, pixels_of = [], [], index.copy()
        for g, view in enumerate(self._inputs.views):
            if view.area == (1, 1) and view.size in self._resized:
                whole = self._resized[view.size][index]
                views.append(np.repeat(whole[:, None], view.count, axis=1))
            else:
                shape = (len(index), view.count, view.size, view.size, self._reader.channels)
                views.append(np.empty(shape, np.uint8))
                places = (index[:, None], g, np.arange(view.count))
                draws = uniform(self._order.seed, epoch, *places, shape=(TRIES, 4))
                cropped.append((view, draws, views[g]))

        def fill(row: int) -> None:
            image, pixels_of[row] = self._reader.pixels(int(index[row]))
            for view, draws, out in cropped:
                for c in range(view.count):
                    out[row, c] = _crop(image, view, draws[row, c])

        if cropped:
            self._pool.run(fill, len(index))
        return tuple(views), pixels_of


class Pool:
    """Calls a function on 0..n-1 in `threads` (0: one a core); one is the caller's own."""

    def __init__(self, threads: int) -> None:
        self._threads = threads or _cores()
        self._pool = ThreadPoolExecutor(self._threads, "decode") if self._threads > 1 else None

    def run(self, fn: Callable[[int], None], n: int) -> None:
        chunk = max(1, n // (4 * self._threads))  # small enough that all threads end together

        def piece(first: int) -> None:
            for i in range(first, min(n, first + chunk)):
                fn(i)

        each = map if self._pool is None else self._pool.map
        for _ in each(piece, range(0, n, chunk)):  # waits, and raises what a thread raised
            pass


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _crop(image: np.ndarray, view: View, draws: np.ndarray) -> np.ndarray:
    if view.area == (1, 1):
        return resize(image, view.size)
    height, width, _ = image.shape
    return crop_resize(image, random_box(height, width, draws, view.area), view.size)


def _resize_all(reader: Reader, views: tuple[View, ...]) -> dict[int, np.ndarray]:
    """Size -> the whole in-memory set at that size, for the views that show whole images."""
    arrays = reader.source.arrays
    sizes = {view.size for view in views if view.area == (1, 1)}
    if arrays is None or not sizes:
        return {}
    arrays = to_channels(arrays, reader.channels)
    return {size: np.stack([resize(image, size) for image in arrays]) for size in sizes}
