"""What an evaluation protocol is, and what it looks at: an encoder, or raw pixels, on a training
and a test set.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, TypeVar

import jax
import numpy as np

from ssl_jax.core import config, sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.core.ranges import Integer
from ssl_jax.data.copies import held_out, identities, sample
from ssl_jax.data.pipeline import eval_arrays, local_part
from ssl_jax.data.sources import Source
from ssl_jax.data.text import BYTES, Tokenizer
from ssl_jax.evals import features
from ssl_jax.evals.checks import DoesNotApply, NotMeasurable, check_classes, check_varied
from ssl_jax.objectives.base import Encoder, Probe

T = TypeVar("T")
PIXELS = 32  # raw pixels of larger views are compared at this side
STATISTICS = 1024  # images that batch statistics of an untrained network are made of


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One way of measuring. Its fields are its settings: a sweep may vary each of them, and every
    result carries all of them. It defines `measure`, or `measure_all` if settings share work.

    Attributes:
      prefix: of the names of its numbers.
      labels: whether it needs labels.
      needs: what it needs to apply, for a message.
      every_stage: whether, where no stage is named, it is asked of all stages of the methods that
        want that (`Objective.probe_every_stage`).
      of_pixels: settings that only raw pixels are measured by, which `evaluate` does not sweep.
    """

    prefix: ClassVar[str] = "eval"
    labels: ClassVar[bool] = True
    needs: ClassVar[str] = "labels of training and evaluation images"
    every_stage: ClassVar[bool] = False
    of_pixels: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        config.check(self, type(self).__name__.lower())

    def applies(self, subject: "Subject") -> bool:
        """Whether there is what it needs: by default labels, or an encoder."""
        return subject.labelled if self.labels else subject.encoder is not None

    def unused(self) -> Mapping[str, str]:
        """Settings that change nothing beside the others, and why: name -> reason."""
        return {}

    def check(self, subject: "Subject") -> None:
        """What can be told before an image is read.

        Raises:
          NotMeasurable: labels that allow no score.
          UserError: a setting changes nothing, names a file that is not there, or does not fit the
            data.
        """
        config.check_used(self, type(self).__name__.lower())
        if self.labels:
            subject.images.check_classes()

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

    def some(self, count: int) -> "Part":
        """At most so many of them, drawn evenly over the labels."""
        labels = self.source.labels
        known = np.zeros(len(self.rows)) if labels is None else labels[self.rows]
        return Part(self.source, self.rows[sample(known, count)])


class Labelled(NamedTuple):
    """Features (N, D) float32 and labels (N,) of the examples that have one."""

    features: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Images:
    """The two sets, as an encoder is shown them: centrally cropped to its view.

    Without a test set, a fifth of the training examples is held out of what learns from labels (the
    encoder saw its pixels): a random one, even over the labels, copies of one example on one side.
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
        """At most so many examples of each set, drawn evenly over its labels."""
        if test is None:
            held = held_out(train)
            parts = Part(train, np.flatnonzero(~held)), Part(train, np.flatnonzero(held))
        else:
            parts = Part(train, np.arange(len(train))), Part(test, np.arange(len(test)))
        train_part, test_part = (
            p.some(n) for p, n in zip(parts, (max_train, max_eval), strict=True)
        )
        return cls(train=train_part, test=test_part, **how)  # type: ignore[arg-type]

    @property
    def labelled(self) -> bool:
        """Whether both sets have labels, at least of one example each.

        Raises:
          UserError: one of them is empty.
        """
        parts = self.train, self.test
        there = [np.any(self.labels(part, some_rows(part)) >= 0) for part in parts]
        return all(there)

    def check_classes(self) -> None:
        """
        Raises:
          NotMeasurable: no two classes to learn from, or none of them in the test set.
        """
        train, test = (self.labels(p, some_rows(p)) for p in (self.train, self.test))
        check_classes(train, test)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes by the numbers that `labels` gives."""
        known, names = self.train.source.class_names, self.test.source.class_names
        if set(names) & set(known):
            return tuple(dict.fromkeys((*known, *names)))
        return (*known, *names[len(known) :])

    def notes(self) -> list[str]:
        """What a reader of the numbers must know of the two sets, a line each."""
        return [*self._class_notes(), *self._copy_notes()]

    def _class_notes(self) -> list[str]:
        train, test = (self.labels(part, part.rows) for part in (self.train, self.test))
        learned, asked = np.unique(train[train >= 0]), np.unique(test[test >= 0])
        if not len(learned) or not len(asked):
            return []
        known, names, notes = self.train.source.class_names, self.test.source.class_names, []
        if names != known and not set(names) & set(known):
            notes.append(
                f"{self.train.source.name} and {self.test.source.name} share no name of a class: "
                "classes are matched by their numbers"
            )
        lacking = asked[~np.isin(asked, learned)]
        if len(lacking):
            count, called = int(np.isin(test, lacking).sum()), self.class_names
            some = ", ".join(called[c] if c < len(called) else str(c) for c in lacking[:5])
            more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
            notes.append(
                f"{count} of {np.sum(test >= 0)} evaluation examples are of classes that the "
                f"training part lacks ({some}{more}): every answer to them counts as wrong"
            )
        return notes

    def _copy_notes(self) -> list[str]:
        """Where both are one set, its held-out part has no copies in the other part."""
        if self.train.source is self.test.source or not len(self.test.rows):
            return []
        train, test = (identities(p.source, p.rows) for p in (self.train, self.test))
        copies = int(np.isin(test, train).sum())
        if not copies:
            return []
        return [
            f"{copies} of {len(test)} evaluation images are training images too: numbers on them "
            "say what was seen, not what was learned"
        ]

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
          NotMeasurable: none has.
        """
        labels = self.labels(part, index)
        kept = labels >= 0
        if not kept.any():
            raise NotMeasurable(f"{part.source.name}: none of {len(index)} examples has a label")
        if kept.all():  # without a copy
            return [Labelled(rows, labels) for rows in found]
        return [Labelled(rows[kept], labels[kept]) for rows in found]

    def batches(self, part: Part, size: int | None = None) -> features.Batches:
        """(images, index) of this process's rows of a part, at this side or the view's.

        Raises:
          NotMeasurable: the part is empty.
        """
        batch, rows = self.batch_size + -self.batch_size % self.mesh.size, some_rows(part)
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
        """At most so many test examples, drawn evenly over their labels.

        Raises:
          UserError: fewer than one.
        """
        if count < 1:
            raise UserError(f"examples = {count} must be positive")
        return self.test.some(count)

    def whole(self, part: Part, size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """All images (N, H, W, C) uint8 of a part and their index, in every process."""
        return features.collect(lambda images, _: images, self.batches(part, size), self.mesh)

    def with_statistics(self, encoder: Encoder) -> Encoder:
        """The encoder with batch-norm statistics of at most `STATISTICS` training images; see
        `features.recompute_statistics`.

        Raises:
          NotMeasurable: none of them can be read.
        """
        if not jax.tree.leaves(encoder.stats):
            return encoder
        part = self.train.some(STATISTICS)
        batches = eval_arrays(
            part.source, self.view.size, rows=some_rows(part), channels=self.channels
        )
        images = np.concatenate([images[index >= 0] for images, index in batches])
        if not len(images):
            raise NotMeasurable(f"{part.source.name}: none of {len(part.rows)} images can be read")
        return features.recompute_statistics(encoder, self.view, images, self.mesh)


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
            if not train:
                check_classes(*(self._read[t, probes[0]].labels for t in (True, False)))

    def known(self, part: Part, probes: Sequence[Probe]) -> list[Labelled]:
        """Of the examples of a part that have a label, read at each of `probes` in one pass.

        Raises:
          NotMeasurable: none has, or all features of a probe are the same.
        """
        batches = self.images.batches(part, self.side)
        found = self.images.known(part, *self.features_of(batches, probes))
        for each in found:
            check_varied(each.features, self.what)
        return found

    @property
    def what(self) -> str:
        """Of what its features are, for a message."""
        return "features" if self.encoder is not None else "raw pixels"

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
      NotMeasurable: there are none.
    """
    if not len(part.rows):
        raise NotMeasurable(
            f"{part.source.name}: no example to evaluate on; give evaluation data, or at least two "
            "different training examples, of which a fifth is held out"
        )
    return part.rows


def measured(
    settings: Sequence[Protocol], subject: Subject
) -> Iterator[tuple[Protocol, dict[str, float]]]:
    """The numbers of each of `settings`, all of one protocol, under their full names.

    Every number that is written down passes here; those that are not finite are no scores.

    Raises:
      DoesNotApply: there is not what the protocol is about.
      NotMeasurable: the data, or features of them, do not allow it.
      UserError: a setting does not fit the data or the network.
    """
    first = settings[0]
    if not first.applies(subject):
        raise DoesNotApply(f"it needs {first.needs}")
    for one in settings:
        one.check(subject)
    for one, numbers in type(first).measure_all(settings, subject):
        yield one, {f"{one.prefix}/{name}": float(value) for name, value in numbers.items()}
