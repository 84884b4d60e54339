"""Assembly of host batches by step number: indices, pixels, crops."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Inputs, Size, View
from ssl_jax.data.clips import Clips
from ssl_jax.data.decode import TRIES, Box, crop_resize, random_box, resize, to_channels
from ssl_jax.data.draws import uniform
from ssl_jax.data.masks import Masks, crop_nearest
from ssl_jax.data.order import Order
from ssl_jax.data.reader import Reader
from ssl_jax.data.sources.base import Source
from ssl_jax.data.text import BYTES, Tokenizer


class Steps:
    """Random access to this host's batches: `steps[step]` is a pure function of the step.

    The random crops of an example are drawn from (seed, epoch, index, view group, view). Images in
    memory that are not cropped (area (1, 1)) are resized once, and batches are sliced from the
    result. With `boxes_only` a batch holds `boxes` in place of views, one (b, count, 4) int32 per
    cropped view, from which a device crops the views out of `sets`. `inputs.shapes` describes the
    other arrays.

    Args:
      reader: reads the pixels of an example.
      inputs: content of a batch.
      order: the examples of each step.
      rows: rows of each global batch to make; by default all.
      threads: threads that read the examples of a batch; 0 is one per core.
      boxes_only: for data sets in device memory.
      streams: name -> maker of the sub-batch, for each of `inputs.streams`.
      tokenizer: tokenizer of captions.
      masks: folder of the images' masks, see `Masks`.

    Raises:
      UserError: inputs that the source does not have.
    """

    def __init__(
        self,
        reader: Reader,
        inputs: Inputs,
        order: Order,
        *,
        rows: np.ndarray | None = None,
        threads: int = 0,
        boxes_only: bool = False,
        streams: Mapping[str, "Steps"] | None = None,
        tokenizer: Tokenizer = BYTES,
        masks: str = "",
    ) -> None:
        if inputs.text and reader.source.captions is None:
            raise UserError(
                f"{reader.source.name} has no captions, which this method needs; see docs/data.md"
            )
        if inputs.labels:
            check_label_sets(reader.source, inputs.labels)
        self._reader, self._inputs, self._order = reader, inputs, order
        self._rows = rows
        self._pool = Pool(threads)
        labels = reader.source.labels if inputs.label else None  # may take a pass over the data
        self._labels = np.full(len(reader.source), -1, np.int32) if labels is None else labels
        self._masks = Masks(reader.source, masks) if inputs.masks else None
        # With masks every view is cropped, because the same boxes crop the masks.
        self._resized = {} if inputs.masks else _resize_all(reader, inputs.views)
        self._boxes_only, self._streams = boxes_only, streams or {}
        self._tokenizer = tokenizer
        self._clips = None
        if inputs.frames or inputs.sound:
            self._clips = Clips(reader.source, inputs, reader.channels, order.seed)

    def __getitem__(self, step: int) -> dict:
        index = self._order.indices(step, self._rows)
        epoch = self._order.epoch(step)
        if self._boxes_only:
            batch, pixels_of = self._boxes(index, epoch), index
        else:
            batch, pixels_of = self._views(index, epoch)
        batch["index"] = index
        if self._inputs.label:
            batch["label"] = self._labels[pixels_of]
        if self._inputs.labels:
            sets = self._reader.source.label_sets
            assert sets is not None
            batch["labels"] = sets.padded(pixels_of, self._inputs.labels)
        if self._inputs.text:
            captions = self._reader.source.captions
            assert captions is not None
            batch["text"] = self._tokenizer.caption_tokens(
                captions, pixels_of, self._inputs.text, self._order.seed, epoch
            )
        if self._clips:
            batch |= self._clips.batch(index, epoch, self._pool.run)
        return batch | {name: steps[step] for name, steps in self._streams.items()}

    @property
    def bad(self) -> int:
        """Number of corrupt images that were replaced so far."""
        return len(self._reader.bad) + sum(steps.bad for steps in self._streams.values())

    def sets(self) -> tuple[np.ndarray, ...]:
        """Return for each view the (N, H, W, C) images, in memory, from which it is cropped.

        They are resized for a view of whole images, otherwise unchanged.
        """
        assert self._reader.source.arrays is not None
        arrays = to_channels(self._reader.source.arrays, self._reader.channels)
        views = self._inputs.views
        return tuple(self._resized[_kind(v)] if v.whole else arrays for v in views)

    def _draws(self, index: np.ndarray, epoch: int, g: int) -> np.ndarray:
        """Draw the random numbers of view group `g`: (b, count, TRIES, 4)."""
        places = (index[:, None], g, np.arange(self._inputs.views[g].count))
        return uniform(self._order.seed, epoch, *places, shape=(TRIES, 4))

    def _empty(self, rows: int, *names: str) -> dict[str, tuple[np.ndarray, ...]]:
        """Allocate those of the arrays `names`, with one entry per view, that a batch has."""
        shapes = self._inputs.shapes(rows, self._reader.channels)
        return {n: tuple(np.empty(s.shape, s.dtype) for s in shapes.get(n, ())) for n in names}

    def _boxes(self, index: np.ndarray, epoch: int) -> dict[str, Any]:
        """Return the boxes of cropped views and, if requested, the placement of all views."""
        assert self._reader.source.arrays is not None
        height, width = self._reader.source.arrays.shape[1:3]
        on = height, width
        boxes = []
        placement = self._empty(len(index), "placement")["placement"]
        for g, view in enumerate(self._inputs.views):
            if not view.whole:
                draws = self._draws(index, epoch, g)
                rows = [draw_box(height, width, d, view) for d in draws.reshape(-1, TRIES, 4)]
                boxes.append(np.array(rows, np.int32).reshape(*draws.shape[:2], 4))
            if placement:
                placement[g][:] = placement_of(whole_box(on) if view.whole else boxes[-1], on)
        return {"boxes": tuple(boxes)} | ({"placement": placement} if placement else {})

    def _views(self, index: np.ndarray, epoch: int) -> tuple[dict[str, Any], np.ndarray]:
        """Return the views with their placement and masks, if requested, and the indices of their
        pixels: `index`, except for corrupt images.
        """
        out = self._empty(len(index), "views", "placement", "masks")
        views, placement, masks = out["views"], out["placement"], out["masks"]
        cropped, pixels_of = [], index.copy()
        for g, view in enumerate(self._inputs.views):
            if view.whole and _kind(view) in self._resized:
                views[g][:] = self._resized[_kind(view)][index][:, None]
                if placement:
                    placement[g][:] = placement_of(whole_box((1, 1)), (1, 1))
            else:
                cropped.append((g, view, self._draws(index, epoch, g)))

        def fill(row: int) -> None:
            boxes = _Boxes([(view, draws[row]) for _, view, draws in cropped])
            room = None if masks else boxes.room  # masks have the size of the whole image
            image, pixels_of[row] = self._reader.pixels(int(index[row]), room)
            on = image.shape[:2]
            mask = self._masks.read(int(pixels_of[row]), on) if self._masks else None
            for (g, view, _), places in zip(cropped, boxes.on(*on), strict=True):
                for c, box in enumerate(places):
                    crop_resize(image, box, view.size, view.interpolation, views[g][row, c])
                    if mask is not None:
                        masks[g][row, c] = crop_nearest(mask, box, *view.sides)
                if placement:
                    placement[g][row] = placement_of(np.array(places), on)

        if cropped:
            self._pool.run(fill, len(index))
        return {n: arrays for n, arrays in out.items() if arrays or n == "views"}, pixels_of


def check_label_sets(source: Source, most: int) -> None:
    """Check that the source has label sets, of at most `most` labels.

    Raises:
      UserError: it does not.
    """
    if source.label_sets is None:
        raise UserError(
            f"{source.name} has no lists of labels, which this method needs; see docs/data.md"
        )
    if source.label_sets.most > most:
        raise UserError(
            f"objective.labels: {source.name} has an image with {source.label_sets.most} labels, "
            f"more than {most}; set --config.objective.labels={source.label_sets.most}"
        )


class Pool:
    """Pool of `threads` threads (0: one per core) that calls a function on 0..n-1."""

    def __init__(self, threads: int) -> None:
        self._threads = threads or cores()
        self._pool = ThreadPoolExecutor(self._threads, "decode") if self._threads > 1 else None

    def run(self, fn: Callable[[int], None], n: int) -> None:
        chunk = max(1, n // (4 * self._threads))  # small, so that all threads end together

        def piece(first: int) -> None:
            for i in range(first, min(n, first + chunk)):
                fn(i)

        run_all = map if self._pool is None else self._pool.map
        for _ in run_all(piece, range(0, n, chunk)):  # waits, and raises the error of a thread
            pass


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Boxes:
    """The crops of one image: for each view its (count, TRIES, 4) draws, independent of the size.

    A JPEG file that is decoded at half its size gets the boxes that the same draws give there: the
    same boxes at half their size, up to rounding (and rare tries that fit only one size).
    """

    def __init__(self, views: Sequence[tuple[View, np.ndarray]]) -> None:
        self._views = views

    def on(self, height: int, width: int) -> list[list[Box]]:
        """Return the boxes of each view on an image of this size."""
        return [[draw_box(height, width, d, view) for d in draws] for view, draws in self._views]

    def room(self, height: int, width: int) -> float:
        """Return how many times smaller the image may be before a crop is smaller than its view."""
        largest = max(max(view.sides) for view, _ in self._views)
        if min(height, width) < 2 * largest:  # below 2, the smallest useful factor
            return 1
        return min(
            min(box[2] / view.sides[0], box[3] / view.sides[1])
            for (view, _), boxes in zip(self._views, self.on(height, width), strict=True)
            for box in boxes
        )


def draw_box(height: int, width: int, draws: np.ndarray, view: View) -> Box:
    """Return the box of one crop of `view` from `draws` (TRIES, 4)."""
    if view.whole:
        return whole_box((height, width))
    return random_box(height, width, draws, view.area, kind=view.crop)


def whole_box(on: tuple[int, int]) -> Box:
    """Return the box of a whole image of (height, width) `on`."""
    return 0, 0, *on


def placement_of(box: np.ndarray | Box, on: tuple[int, int]) -> np.ndarray:
    """Return the placement (see `Inputs`) of the crops `box` (..., 4) of an image of (height,
    width) `on`: (..., 2, 3) float32.
    """
    box = np.asarray(box)
    placement = np.zeros((*box.shape[:-1], 2, 3), np.float32)
    for axis in (0, 1):
        placement[..., axis, axis] = box[..., 2 + axis] / on[axis]
        placement[..., axis, 2] = box[..., axis] / on[axis]
    return placement


Kind = tuple[Size, Literal["bilinear", "bicubic"]]  # size and interpolation of whole images


def _kind(view: View) -> Kind:
    return view.size, view.interpolation


def _resize_all(reader: Reader, views: tuple[View, ...]) -> dict[Kind, np.ndarray]:
    """Resize the in-memory set to each size of views of whole images."""
    arrays = reader.source.arrays
    kinds = {_kind(view) for view in views if view.whole}
    if arrays is None or not kinds:
        return {}
    arrays = to_channels(arrays, reader.channels)
    return {kind: np.stack([resize(image, *kind) for image in arrays]) for kind in kinds}
