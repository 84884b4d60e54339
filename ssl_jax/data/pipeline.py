"""Batches for the train step: a function of the step number, prepared ahead in threads.

One grain element is one host batch, so grain's cost per element (11 us) is paid once per step and
`prefetch` counts batches; the examples of a batch are read in parallel, directly into the batch, so
memory does not grow with the number of cores.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import grain
import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Inputs, Size, sides
from ssl_jax.core.ranges import BelowOne, Count, Finite, Probability, Seed, Share, Whole
from ssl_jax.data.assemble import Pool, Steps
from ssl_jax.data.decode import eval_crop
from ssl_jax.data.draws import fold
from ssl_jax.data.order import make_order
from ssl_jax.data.reader import Reader
from ssl_jax.data.sources.base import Source
from ssl_jax.data.text import BYTES, Tokenizer

Batch = dict[str, Any]


@dataclass(frozen=True)
class DataConfig:
    """The section `data` of a config.

    Attributes:
      train: training data: "digits", "npz:/path.npz", "folder:/path".
      eval: evaluation data; None is the part that `train` itself holds out, if any.
      fraction: train on a fixed random share of the images; evaluations use all of them.
      fold: "i/n" joins both sets and holds out the i-th of n parts for evaluation, as in n-fold
        cross-validation.
      labelled: train only on a random labelled part: "5" labels per class, or "1%", even over the
        classes.
      draw: number of the random labelled part.
      holdout: share of the training images, even over the classes, that neither training nor
        evaluations use, so that models can be chosen by them (`ssl-jax finetune`); 0 for none.
      threads: host threads that decode and crop; 0 is one per core.
      prefetch: number of batches prepared ahead.
      max_bad_fraction: the run stops if more than this share of images, rounded up, is corrupt.
      channels: 1 for grey, 3 for RGB, or a number of bands; 0 takes that of the data: 3 for encoded
        images, or their number of bands if all agree on one other than 1 and 3.
      range: values that become 0 to 255, for pixels that are not 8-bit: (low, high), or low and
        high for each band. By default it is measured over a sample of the images; the run's config
        stores it, and all evaluation data of the run use it.
      streams: further data sets for methods that learn from several, name -> data; each has its own
        shuffled order and as many images per batch.
      cache: "device" keeps an in-memory set whole on every device and crops the views there: the
        same order and crops, without pixel work on the host.
      tokenizer: tokenizer of captions: "" for bytes, "train:SIZE" for a byte-level BPE vocabulary
        of SIZE pieces learned from the captions, or the path of a tokenizer file of Hugging Face's
        `tokenizers`. The run's folder stores it as tokenizer.json.
      masks: folder of the masks of the training images, for methods that need them: NAME.png for
        each image NAME.jpg, in the same sub-folders. Not needed for images in a folder images with
        a folder masks beside it.
      hierarchy: file with a class and a wider class per line, for data with several labels per
        image: an image gets all classes above its labels. See `data.hierarchy.read_pairs`.
    """

    train: str = "digits"
    eval: str | None = None
    fraction: Share = 1.0
    fold: str = ""
    labelled: str = ""
    draw: Seed = 0
    holdout: BelowOne = 0.0
    threads: Whole = 0
    prefetch: Count = 2
    max_bad_fraction: Probability = 0.01
    channels: Whole = 0
    range: tuple[Finite, ...] = ()
    cache: Literal["none", "device"] = "none"
    streams: Mapping[str, str] = field(default_factory=dict)
    tokenizer: str = ""
    masks: str = ""
    hierarchy: str = ""

    def unused(self) -> Mapping[str, str]:
        """See `core.config.check_used`."""
        return {} if self.labelled else {"draw": "no labelled part is drawn; set data.labelled"}


class Batches(Iterator[Batch]):
    """Iterator over host batches, made by `batches`."""

    def __init__(self, start: int, stop: int, steps: Steps, prefetch: int) -> None:
        dataset = grain.MapDataset.range(start, max(start, stop)).map(steps.__getitem__)
        options = grain.ReadOptions(num_threads=min(2, prefetch), prefetch_buffer_size=prefetch)
        self._iterator = iter(dataset.to_iter_dataset(options))
        self._steps = steps

    def __next__(self) -> Batch:
        return next(self._iterator)

    @property
    def bad(self) -> int:
        """Number of corrupt images that this host replaced so far."""
        return self._steps.bad

    def collect(self, act: Callable[[Any, int], Any], step: int) -> None:
        """Take what the newest state does before the batch of `step`; nothing, for data sets. See
        `control.acting.ActingLoop.collect`.
        """

    def save(self) -> None:
        """Write what a run that resumes from here needs; nothing, for data sets."""

    def sets(self) -> tuple[np.ndarray, ...]:
        """Return the images to crop each view from, with `boxes_only`; see `Steps.sets`."""
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
    masks: str = "",
) -> Batches:
    """Make the batches of steps `start_step` to `stop_step - 1`, by default with all rows of each.

    Each batch is a dict of NumPy arrays as `Inputs.shapes` describes them, with len(rows) rows.
    For each of `inputs.streams` there is a batch of the source of that name in `streams`. The batch
    of a step depends only on the sources, `inputs`, `global_batch`, `seed` and the step: any start
    and any split into hosts yields the same rows. `seed` and the steps are not negative.

    With `boxes_only`, for `data.cache="device"`, `boxes` replaces `views`: a tuple with one
    (b, count, 4) int32 (top, left, height, width) per cropped view.

    Raises:
      UserError: a batch larger than the data set; inputs that the source does not have;
        `boxes_only` for a set that is not in memory; while iterating, too many corrupt images.
    """
    if boxes_only:
        check_in_memory(source)
        if inputs.masks:
            raise UserError("data.cache=device: this method needs masks; use data.cache=none")
    streams = streams or {}
    check_streams(inputs, streams)

    def steps_of(
        source: Source, inputs: Inputs, seed: int, further: Mapping[str, Steps], masks: str = ""
    ) -> Steps:
        return Steps(
            Reader(source, channels, seed, max_bad_fraction),
            inputs,
            make_order(len(source), global_batch, seed, inputs.window),
            rows=rows,
            threads=threads,
            boxes_only=boxes_only,
            streams=further,
            tokenizer=tokenizer,
            masks=masks,
        )

    further = {
        name: steps_of(streams[name], sub, int(fold(seed, *name.encode())), {})
        for name, sub in inputs.streams
    }
    steps = steps_of(source, inputs, seed, further, masks)
    return Batches(start_step, stop_step, steps, prefetch)


def check_streams(inputs: Inputs, names: Collection[str]) -> None:
    """Check that `names` are those of the further data sets that a method needs.

    Raises:
      UserError: a missing or an unnecessary set.
    """
    needed = [name for name, _ in inputs.streams]
    for name in set(needed) - set(names):
        raise UserError(
            f"data.streams.{name}: this method needs a further data set {name!r}; set "
            f"--config.data.streams.{name}=folder:/path"
        )
    for name in set(names) - set(needed):
        expected = f"only {', '.join(needed)}" if needed else "none"
        raise UserError(f"data.streams.{name}: this method uses no such data set; {expected}")


def check_masks(inputs: Inputs, folder: str) -> None:
    """Check that a folder of masks is only set for a method that reads masks.

    Raises:
      UserError: it would change nothing.
    """
    if folder and not inputs.masks:
        raise UserError(f"data.masks: {folder!r} would change nothing: this method reads no masks")


def check_one_label(inputs: Inputs, source: Source) -> None:
    """Check that a method that learns one label per image gets images with one.

    Raises:
      UserError: they have several each.
    """
    if inputs.label and source.labels is None and source.label_sets is not None:
        most = max(source.label_sets.most, 1)
        raise UserError(
            f"{source.name} has several labels per image, and this method learns one; use jft, or "
            f"supervised with --config.objective.labels={most}"
        )


def check_in_memory(source: Source) -> None:
    """Check that `data.cache="device"` can be used.

    Raises:
      UserError: `source` is not one array in memory.
    """
    if source.arrays is None:
        raise UserError(
            f"data.cache=device: expected images in memory, all of one size, got {source.name}; "
            "use data.cache=none"
        )


def eval_arrays(
    source: Source,
    size: Size,
    *,
    rows: np.ndarray | None = None,
    channels: Whole = 0,
    batch: int = 256,
    threads: Whole = 0,
    max_bad_fraction: Probability = 0.01,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield examples in order, centrally cropped to `size`: images (batch, h, w, C) uint8 and
    their index (batch,).

    Rows without an example have index -1 and zero pixels: the padding of the last batch, and
    corrupt images, which are left out here, not replaced.

    Args:
      rows: indices of the examples, by default all; -1 is no example.

    Raises:
      UserError: too many corrupt images.
    """
    reader = Reader(source, channels, max_bad_fraction=max_bad_fraction)
    pool = Pool(threads)
    rows = np.arange(len(source)) if rows is None else rows
    for first in range(0, len(rows), batch):
        images = np.zeros((batch, *sides(size), reader.channels), np.uint8)
        index = np.full(batch, -1, np.int32)

        def fill(row: int, first=first, images=images, index=index) -> None:
            example = int(rows[first + row])
            pixels = reader.try_pixels(example) if example >= 0 else None
            if pixels is not None:
                images[row], index[row] = eval_crop(pixels, size), example

        pool.run(fill, min(batch, len(rows) - first))
        yield images, index


def local_part(rows: np.ndarray, batch: int, local: np.ndarray) -> np.ndarray:
    """Select the rows that this process reads: the positions `local` of each global batch of size
    `batch` from `rows`, one batch after another. The last batch is padded with -1.
    """
    padded = np.pad(rows, (0, -len(rows) % batch), constant_values=-1)
    return padded.reshape(-1, batch)[:, local].reshape(-1)
