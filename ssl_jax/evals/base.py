"""What an evaluation protocol is, and what it looks at: an encoder, or raw pixels, on a training
and a test set.
"""

import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, TypeVar

import jax
import numpy as np

from ssl_jax.core import config, sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.core.ranges import Integer
from ssl_jax.data.pipeline import eval_arrays, local_part
from ssl_jax.data.sources import Source
from ssl_jax.data.text import BYTES, Tokenizer
from ssl_jax.evals import features
from ssl_jax.objectives.base import Encoder, Probe

T = TypeVar("T")
PIXELS = 32  # raw pixels of larger views are compared at this side
STATISTICS_BATCHES = 30  # a running average of momentum 0.9 has then forgotten 96 % of its start


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One way of measuring. Its fields are its settings: a sweep may vary each of them, and every
    result carries all of them. It defines `measure`, or `measure_all` if settings share work.

    Attributes:
      prefix: of the names of its numbers.
      labels: whether it needs labels.
      every_stage: whether, where no stage is named, it is asked of all stages of the methods that
        want that (`Objective.probe_every_stage`).
      of_pixels: settings that only raw pixels are measured by, which `evaluate` does not sweep.
    """

    prefix: ClassVar[str] = "eval"
    labels: ClassVar[bool] = True
    every_stage: ClassVar[bool] = False
    of_pixels: ClassVar[tuple[str, ...]] = ()

    def applies(self, subject: "Subject") -> bool:
        """Whether there is what it needs: by default labels, or an encoder."""
        return subject.labelled if self.labels else subject.encoder is not None

    def unused(self) -> Mapping[str, str]:
        """Settings that change nothing beside the others, and why: name -> reason."""
        return {}

    def check(self, subject: "Subject") -> None:
        """What can be told before an image is read.

        Raises:
          UserError: a setting changes nothing, names a file that is not there, or does not fit the
            data.
        """
        config.check_used(self, type(self).__name__.lower())

    def at_most(self, name: str, most: int, what: str) -> int:
        """The setting `name`, whose default is lowered to `most` where there is no more of `what`.

        Raises:
          UserError: a value of its own that is larger: it would be recorded and not applied.
        """
        value = getattr(self, name)
        if value > most and value != config.defaults(type(self))[name]:
            raise UserError(
                f"{type(self).__name__.lower()}: {name} = {value} is more than the {most} {what}"
            )
        return min(value, most)

    def settled(self) -> Self:
        """The same with the settings filled in that it leaves to the others."""
        return self

    def measure(self, subject: "Subject") -> dict[str, float]:
        """Name -> number.

        Raises:
          UserError: the data or the network do not allow it.
        """
        return next(numbers for _, numbers in self.measure_all([self], subject))

    @classmethod
    def measure_all(
        cls, settings: Sequence[Self], subject: "Subject"
    ) -> Iterator[tuple[Self, dict[str, float]]]:
        """The numbers of each of `settings`, as they come."""
        for one in settings:
            one.check(subject)
        for one in settings:
            yield one, one.measure(subject)


@dataclass(frozen=True, kw_only=True)
class AtLayer(Protocol):
    """A protocol that reads one layer.

    Attributes:
      stage, pool: see `Probe`; by default where the method names it.
    """

    stage: Integer | None = None
    pool: str | None = None

    @classmethod
    def measure_all(
        cls, settings: Sequence[Self], subject: "Subject"
    ) -> Iterator[tuple[Self, dict[str, float]]]:
        for one in settings:
            one.check(subject)
        if cls.labels:
            subject.read(settings)
        for one in settings:
            yield one, one.measure(subject)


class Part(NamedTuple):
    """Some rows of a data set."""

    source: Source
    rows: np.ndarray


class Labelled(NamedTuple):
    """Features (N, D) float32 and labels (N,) of the examples that have one."""

    features: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Images:
    """The two sets, as an encoder is shown them: centrally cropped to its view.

    Without a test set, every fifth training example is held out of what learns from labels (the
    encoder saw its pixels, never its label).
    """

    view: View
    channels: int
    batch_size: int
    mesh: jax.sharding.Mesh
    train: Part
    test: Part

    @classmethod
    def of(
        cls, train: Source, test: Source | None, max_train: int, max_eval: int, **how: object
    ) -> "Images":
        """At most so many examples of each set, evenly over all of them."""
        rows = np.arange(len(train))
        held_out = rows % 5 == 4
        train_rows = rows if test is not None else rows[~held_out]
        test_rows = np.arange(len(test)) if test is not None else rows[held_out]
        return cls(
            train=Part(train, spread(train_rows, max_train)),
            test=Part(test if test is not None else train, spread(test_rows, max_eval)),
            **how,  # type: ignore[arg-type]
        )

    @property
    def labelled(self) -> bool:
        """Whether both sets have labels, at least of one example each.

        Raises:
          UserError: one of them is empty.
        """
        parts = self.train, self.test
        there = [np.any(self.labels(part, some_rows(part)) >= 0) for part in parts]
        return all(there)

    def labels(self, part: Part, index: np.ndarray) -> np.ndarray:
        """Labels (N,) of these examples of a part, in the numbers of the training set's classes, -1
        where there is none.

        Two folders number their classes each by itself. So classes go by their names wherever the
        two sets share one; those that training does not have get the numbers after its own.
        """
        source, known = part.source, self.train.source.class_names
        if source.labels is None:
            return np.full(len(index), -1, np.int32)
        names, labels = source.class_names, source.labels[index]
        if names == known or not set(names) & set(known):
            return labels
        number = {name: i for i, name in enumerate(dict.fromkeys((*known, *names)))}
        return np.array([*(number[name] for name in names), -1], np.int32)[labels]

    def known(self, part: Part, found: Sequence[np.ndarray], index: np.ndarray) -> list["Labelled"]:
        """Of what was `found` (N, ...) of the examples `index`, the rows that have a label.

        Raises:
          UserError: none has.
        """
        labels = self.labels(part, index)
        kept = labels >= 0
        if not kept.any():
            raise UserError(f"{part.source.name}: none of {len(index)} examples has a label")
        if kept.all():  # without a copy
            return [Labelled(rows, labels) for rows in found]
        return [Labelled(rows[kept], labels[kept]) for rows in found]

    def batches(self, part: Part, size: int | None = None, few: bool = False) -> features.Batches:
        """(images, index) of this process's rows of a part, at this side or the view's; `few`: no
        more than batch statistics need.

        Raises:
          UserError: the part is empty.
        """
        batch, rows = self.batch_size + -self.batch_size % self.mesh.size, some_rows(part)
        rows = spread(rows, STATISTICS_BATCHES * batch) if few else rows
        batch = min(batch, max(len(rows) // self.mesh.size * self.mesh.size, self.mesh.size))
        mine = sharding.local_rows(self.mesh, batch)
        return eval_arrays(
            part.source,
            size or self.view.size,
            rows=local_part(rows, batch, mine),
            channels=self.channels,
            batch=len(mine),
        )

    def some(self, count: int) -> Part:
        """At most so many test examples, evenly over all of them.

        Raises:
          UserError: fewer than one.
        """
        if count < 1:
            raise UserError(f"examples = {count} must be positive")
        return Part(self.test.source, spread(self.test.rows, count))

    def whole(self, part: Part, size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """All images (N, H, W, C) uint8 of a part and their index, in every process."""
        return features.collect(lambda images, _: images, self.batches(part, size), self.mesh)

    def with_statistics(self, encoder: Encoder) -> Encoder:
        """The encoder with batch-norm statistics of the training images."""
        batches = itertools.cycle(list(self.batches(self.train, few=True)))
        some = itertools.islice(batches, STATISTICS_BATCHES)
        return features.recompute_statistics(encoder, self.view, some, self.mesh)


class Subject:
    """An encoder on two sets of images, or their raw pixels where it is None.

    Args:
      probe: where features are read unless a protocol says otherwise.
      tokenizer: of the captions.
    """

    def __init__(
        self,
        encoder: Encoder | None,
        images: Images,
        probe: Probe,
        tokenizer: Tokenizer = BYTES,
    ):
        self.encoder, self.images, self.probe, self.tokenizer = encoder, images, probe, tokenizer
        self._read: dict[tuple[bool, Probe], Labelled] = {}  # (of the training set, layer)

    @property
    def labelled(self) -> bool:
        return self.images.labelled

    @property
    def classes(self) -> int:
        return self.images.train.source.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the training set, whose numbers all labels have."""
        return self.images.train.source.class_names

    def probe_of(self, protocol: AtLayer) -> Probe:
        """Where the protocol reads features."""
        return self.probe.at(protocol.stage, protocol.pool)

    def train(self, protocol: AtLayer) -> Labelled:
        """Of the training set, where the protocol reads them."""
        self.read([protocol])
        return self._read[True, self.probe_of(protocol)]

    def test(self, protocol: AtLayer) -> Labelled:
        """Of the test set, where the protocol reads them."""
        self.read([protocol])
        return self._read[False, self.probe_of(protocol)]

    def read(self, protocols: Sequence[AtLayer]) -> None:
        """Read all layers that these protocols need, and that were not yet read, in one pass."""
        asked = dict.fromkeys(self.probe_of(protocol) for protocol in protocols)
        probes = [probe for probe in asked if (True, probe) not in self._read]
        for train in (True, False) if probes else ():
            part = self.images.train if train else self.images.test
            for probe, found in zip(probes, self.known(part, probes), strict=True):
                self._read[train, probe] = found

    def known(self, part: Part, probes: Sequence[Probe]) -> list[Labelled]:
        """Of the examples of a part that have a label, read at each of `probes` in one pass.

        Raises:
          UserError: none has.
        """
        batches = self.images.batches(part, self.side)
        return self.images.known(part, *self.features_of(batches, probes))

    @property
    def side(self) -> int:
        """Pixels of the images that `features_of` takes."""
        size = self.images.view.size
        return size if self.encoder is not None else min(size, PIXELS)

    def features_of(
        self, batches: features.Batches, probes: Sequence[Probe]
    ) -> tuple[Sequence[np.ndarray], np.ndarray]:
        """Features (N, D) of each of `probes` and index (N,) of the images, at this `side`; see
        `features.extract`.
        """
        if self.encoder is None:
            pixels, index = features.collect(lambda images, _: images, batches, self.images.mesh)
            rows = pixels.astype(np.float32).reshape(len(pixels), -1) / 255
            return [rows] * len(probes), index
        return features.extract(self.encoder, self.images.view, probes, batches, self.images.mesh)


def grouped(items: Sequence[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """Those of equal key together, for what they share."""
    groups: dict[Hashable, list[T]] = {}
    for one in items:
        groups.setdefault(key(one), []).append(one)
    return list(groups.values())


def some_rows(part: Part) -> np.ndarray:
    """The rows of a part.

    Raises:
      UserError: there are none.
    """
    if not len(part.rows):
        raise UserError(
            f"{part.source.name}: no example to evaluate on; give evaluation data, or at least "
            "five training examples, of which every fifth is held out"
        )
    return part.rows


def spread(rows: np.ndarray, limit: int) -> np.ndarray:
    """At most `limit` rows, evenly over all of them: a folder's classes lie one after another."""
    if len(rows) <= limit:
        return rows
    return rows[np.linspace(0, len(rows) - 1, limit).astype(np.int64)]
