"""Batches for the train step: a function of the step number, made ahead in threads, put on devices.

One grain element is one host batch, so grain's cost an element (11 us) is paid once a step and
`prefetch` counts batches; the examples of a batch are read side by side, straight into the batch,
so the memory held does not grow with the number of cores.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import grain
import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Inputs
from ssl_jax.core.ranges import Count, Finite, Probability, Seed, Share, Whole
from ssl_jax.data.assemble import Pool, Steps
from ssl_jax.data.decode import eval_crop
from ssl_jax.data.draws import fold
from ssl_jax.data.order import Order
from ssl_jax.data.reader import Reader
from ssl_jax.data.sources.base import Source
from ssl_jax.data.text import BYTES, Tokenizer

Batch = dict[str, Any]


@dataclass(frozen=True)
class DataConfig:
    """The section `data` of a config.

    Attributes:
      train: what to train on: "digits", "npz:/path.npz", "folder:/path".
      eval: what to evaluate on; None is the part that `train` itself holds out, if it does.
      fraction: train on this share of the images only, a fixed random one; evaluations learn from
        all of them.
      fold: "i/n" joins both sets and holds the i-th of n parts out for evaluation, as n-fold
        cross-validation does.
      labelled: train on a random labelled part only: "5" labels a class, or "1%", even over the
        classes.
      draw: which of those parts.
      threads: host threads that decode and crop; 0 is one a core.
      prefetch: batches made ahead.
      max_bad_fraction: the run stops at more broken images than this share, rounded up.
      channels: 1 for grey, 3 for RGB, or as many bands; 0 is as the data are: 3 for encoded images,
        or their number of bands where all have another, neither 1 nor 3.
      range: of pixels that are not 8-bit, the values that become 0 to 255: (low, high), or a low
        and a high for each band. By default it is measured over a sample of the images; the run's
        config holds it, and all data that are evaluated with the run are read in it.
      streams: further sets of images for methods that learn from several, name -> data; each has a
        shuffled order of its own, and as many images in a batch.
      cache: "device" keeps a set in memory on every device, whole, and cuts the views there: the
        same order and the same crops, without pixel work on the host.
      tokenizer: of captions: "" for their bytes, "train:SIZE" for a byte-level BPE vocabulary of so
        many pieces learned from them, or the path of a tokenizer file of Hugging Face's
        `tokenizers`. The run's folder keeps it as tokenizer.json.
    """

    train: str = "digits"
    eval: str | None = None
    fraction: Share = 1.0
    fold: str = ""
    labelled: str = ""
    draw: Seed = 0
    threads: Whole = 0
    prefetch: Count = 2
    max_bad_fraction: Probability = 0.01
    channels: Whole = 0
    range: tuple[Finite, ...] = ()
    cache: Literal["none", "device"] = "none"
    streams: Mapping[str, str] = field(default_factory=dict)
    tokenizer: str = ""

    def unused(self) -> Mapping[str, str]:
        """See `core.config.check_used`."""
        return {} if self.labelled else {"draw": "no labelled part is drawn; give data.labelled"}


class Batches(Iterator[Batch]):
    """Iterator over host batches; `batches` makes it."""

    def __init__(self, start: int, stop: int, steps: Steps, prefetch: int) -> None:
        dataset = grain.MapDataset.range(start, max(start, stop)).map(steps.__getitem__)
        options = grain.ReadOptions(num_threads=min(2, prefetch), prefetch_buffer_size=prefetch)
        self._iterator = iter(dataset.to_iter_dataset(options))
        self._steps = steps

    def __next__(self) -> Batch:
        return next(self._iterator)

    @property
    def bad(self) -> int:
        """Number of broken images that this host met, and replaced, so far."""
        return self._steps.bad

    def sets(self) -> tuple[np.ndarray, ...]:
        """With `boxes_only`: what each view is cut out of; see `Steps.sets`."""
        return self._steps.sets()

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
    rows: np.ndarray | None = None,
    threads: Whole = 0,
    prefetch: Count = 2,
    max_bad_fraction: Probability = 0.01,
    channels: Whole = 0,
    boxes_only: bool = False,
    streams: Mapping[str, Source] | None = None,
    tokenizer: Tokenizer = BYTES,
) -> Batches:
    """The batches of steps `start_step` to `stop_step - 1`; only `rows` of each, if given.

    Each is a dict of NumPy arrays as `Inputs` describes them, with b = len(rows) rows:
    `views`, a tuple of (b, count, size, size, C) uint8, one a view; `index` (b,) int32; and, with
    `inputs.label`, `label` (b,) int32 (-1 where there is none). For each of `inputs.streams` there
    is a batch of the source of that name in `streams`. The batch of a step depends only on the
    sources, `inputs`, `global_batch`, `seed` and the step: any start and any split into hosts
    yields the same rows. `seed` and the steps are not negative.

    With `boxes_only`, for `data.cache="device"`, there are no `views` but `boxes`, a tuple with one
    (b, count, 4) int32 (top, left, height, width) for each view that is cropped.

    Raises:
      UserError: a batch larger than the data set; inputs that the source does not have;
        `boxes_only` of a set that is not in memory; while iterating, too many broken images.
    """
    if boxes_only:
        check_in_memory(source)
    given = streams or {}
    check_streams(inputs, given)

    def steps_of(source: Source, inputs: Inputs, seed: int, further: Mapping[str, Steps]) -> Steps:
        return Steps(
            Reader(source, channels, seed, max_bad_fraction),
            inputs,
            Order(len(source), global_batch, seed),
            rows=rows,
            threads=threads,
            boxes_only=boxes_only,
            streams=further,
            tokenizer=tokenizer,
        )

    further = {
        name: steps_of(given[name], sub, int(fold(seed, *name.encode())), {})
        for name, sub in inputs.streams
    }
    return Batches(start_step, stop_step, steps_of(source, inputs, seed, further), prefetch)


def check_streams(inputs: Inputs, given: Collection[str]) -> None:
    """Whether the further sets that a method needs are those that were `given`.

    Raises:
      UserError: they are not.
    """
    needed = [name for name, _ in inputs.streams]
    for name in set(needed) - set(given):
        raise UserError(
            f"this method needs a further set of images, {name!r}: name it with "
            f"--config.data.streams.{name}=folder:/path"
        )
    for name in set(given) - set(needed):
        known = f"only {', '.join(needed)}" if needed else "none"
        raise UserError(f"data.streams.{name}: this method takes no such set; {known}")


def check_in_memory(source: Source) -> None:
    """For `data.cache="device"`.

    Raises:
      UserError: `source` is not in memory as one array.
    """
    if source.arrays is None:
        raise UserError(
            f"data.cache=device: the images of {source.name} are not in memory, all of one size; "
            "use data.cache=none"
        )


def eval_arrays(
    source: Source,
    size: int,
    *,
    rows: np.ndarray | None = None,
    channels: Whole = 0,
    batch: int = 256,
    threads: Whole = 0,
    max_bad_fraction: Probability = 0.01,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Examples in order, centrally cropped: images (batch, size, size, C) uint8, index (batch,).

    Rows that are no example have index -1 and zero pixels: the padding of the last batch, and
    broken images, which are left out here rather than replaced.

    Args:
      rows: indices of the examples wanted; by default all. One of -1 is no example.

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
            pixels = reader.try_pixels(example) if example >= 0 else None
            if pixels is not None:
                images[row], index[row] = eval_crop(pixels, size), example

        pool.run(fill, min(batch, len(rows) - first))
        yield images, index


def local_part(rows: np.ndarray, batch: int, local: np.ndarray) -> np.ndarray:
    """Of `rows` in global batches of `batch`, those that this process reads: the places `local` of
    each batch, one batch after another. The last one is filled up with -1.
    """
    padded = np.pad(rows, (0, -len(rows) % batch), constant_values=-1)
    return padded.reshape(-1, batch)[:, local].reshape(-1)
