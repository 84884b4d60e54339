"""Base classes of the evaluation protocols, and their subject: an encoder, or raw pixels, on a
training and a test set.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, TypeVar

import jax
import numpy as np

from ssl_jax.core import config, sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Size, View
from ssl_jax.core.ranges import Integer
from ssl_jax.data.copies import held_out, identities, sample
from ssl_jax.data.pipeline import eval_arrays, local_part
from ssl_jax.data.sources import Source
from ssl_jax.data.text import BYTES, Tokenizer
from ssl_jax.evals import features
from ssl_jax.evals.checks import DoesNotApply, NotMeasurable, check_classes, check_varied
from ssl_jax.objectives.base import Encoder, Probe

T = TypeVar("T")
PIXELS = 32  # side at which raw pixels of larger views are compared
STATISTICS = 1024  # images used for the batch statistics of an untrained network


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A way of measuring. Its fields are its settings: a sweep may vary each of them, and every
    result records all of them. A protocol defines `measure`, or `measure_all` if settings share
    work.

    Attributes:
      prefix: prefix of the names of its numbers.
      labels: whether it needs labels.
      needs: requirements of the protocol, in words, for messages.
      every_stage: whether, if no stage is set, it measures all stages of the methods that ask for
        that (`Objective.probe_every_stage`).
      of_pixels: settings that apply to raw pixels only; `evaluate` does not sweep them.
    """

    prefix: ClassVar[str] = "eval"
    labels: ClassVar[bool] = True
    needs: ClassVar[str] = "labels of training and evaluation images"
    every_stage: ClassVar[bool] = False
    of_pixels: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        config.check(self, type(self).__name__.lower())

    def applies(self, subject: "Subject") -> bool:
        """Return whether its requirements are met: by default labels, or an encoder."""
        return subject.labelled if self.labels else subject.encoder is not None

    def unused(self) -> Mapping[str, str]:
        """Return the settings that have no effect given the others: name -> reason."""
        return {}

    def check(self, subject: "Subject") -> None:
        """Check everything that can be checked before an image is read.

        Raises:
          NotMeasurable: labels that allow no score.
          UserError: a setting has no effect, names a missing file, or does not fit the data.
        """
        config.check_used(self, type(self).__name__.lower())
        if self.labels:
            subject.images.check_classes()

    def at_most(self, name: str, most: int, what: str) -> int:
        """Return the setting `name`, with its default lowered to `most`, the number of `what`.

        Raises:
          UserError: a larger value that is not the default: it would be recorded and not applied.
        """
        value = getattr(self, name)
        if value > most and value != config.defaults(type(self))[name]:
            raise UserError(
                f"{type(self).__name__.lower()}: {name} = {value} is more than the {most} {what}"
            )
        return min(value, most)

    def settled(self) -> Self:
        """Return the same protocol, with the defaults that depend on other settings filled in."""
        return self

    def measure(self, subject: "Subject") -> dict[str, float]:
        """Measure the subject; return name -> number.

        Raises:
          UserError: the data or the network do not allow it.
        """
        return next(numbers for _, numbers in self.measure_all([self], subject))

    @classmethod
    def measure_all(
        cls, settings: Sequence[Self], subject: "Subject"
    ) -> Iterator[tuple[Self, dict[str, float]]]:
        """Yield each of `settings` with its numbers, as soon as they are measured."""
        for setting in settings:
            setting.check(subject)
        for setting in settings:
            yield setting, setting.measure(subject)


@dataclass(frozen=True, kw_only=True)
class AtLayer(Protocol):
    """A protocol that reads one layer.

    Attributes:
      stage, pool: see `Probe`; by default those of the method.
    """

    stage: Integer | None = None
    pool: str | None = None

    @classmethod
    def measure_all(
        cls, settings: Sequence[Self], subject: "Subject"
    ) -> Iterator[tuple[Self, dict[str, float]]]:
        for setting in settings:
            setting.check(subject)
        if cls.labels:
            subject.read(settings)
        for setting in settings:
            yield setting, setting.measure(subject)


class Part(NamedTuple):
    """Some rows of a data set."""

    source: Source
    rows: np.ndarray

    def some(self, count: int) -> "Part":
        """Return at most `count` of them, drawn evenly over the labels."""
        labels = self.source.labels
        strata = np.zeros(len(self.rows)) if labels is None else labels[self.rows]
        return Part(self.source, self.rows[sample(strata, count)])


class Labelled(NamedTuple):
    """Features (N, D) float32 and labels (N,) of the examples that have a label."""

    features: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Images:
    """The training and the test set as the encoder sees them: centrally cropped to its view.

    Without a test set, a fifth of the training examples is held out of everything that learns from
    labels (the encoder saw its pixels): a random fifth, even over the labels, with all copies of an
    example on the same side.
    """

    view: View
    channels: int
    batch_size: int
    mesh: jax.sharding.Mesh
    train: Part
    test: Part

    @classmethod
    def of(
        cls, train: Source, test: Source | None, max_train: int, max_eval: int, **settings: object
    ) -> "Images":
        """Create it with at most so many examples of each set, drawn evenly over its labels."""
        if test is None:
            is_held_out = held_out(train)
            parts = (
                Part(train, np.flatnonzero(~is_held_out)),
                Part(train, np.flatnonzero(is_held_out)),
            )
        else:
            parts = Part(train, np.arange(len(train))), Part(test, np.arange(len(test)))
        train_part, test_part = (
            p.some(n) for p, n in zip(parts, (max_train, max_eval), strict=True)
        )
        return cls(train=train_part, test=test_part, **settings)  # type: ignore[arg-type]

    @property
    def labelled(self) -> bool:
        """True if both sets have at least one labelled example.

        Raises:
          UserError: one of them is empty.
        """
        parts = self.train, self.test
        labelled = [np.any(self.labels(part, some_rows(part)) >= 0) for part in parts]
        return all(labelled)

    def check_classes(self) -> None:
        """Check that the labels allow a score.

        Raises:
          NotMeasurable: no two classes to learn from, or none of them in the test set.
        """
        train, test = (self.labels(p, some_rows(p)) for p in (self.train, self.test))
        check_classes(train, test)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, indexed by the numbers that `labels` returns."""
        train_names, test_names = self.train.source.class_names, self.test.source.class_names
        if set(test_names) & set(train_names):
            return tuple(dict.fromkeys((*train_names, *test_names)))
        return (*train_names, *test_names[len(train_names) :])

    def notes(self) -> list[str]:
        """Return caveats about the two sets for readers of the numbers, one line each."""
        return [*self._class_notes(), *self._copy_notes()]

    def _class_notes(self) -> list[str]:
        train, test = (self.labels(part, part.rows) for part in (self.train, self.test))
        train_classes, test_classes = np.unique(train[train >= 0]), np.unique(test[test >= 0])
        if not len(train_classes) or not len(test_classes):
            return []
        train_names, test_names = self.train.source.class_names, self.test.source.class_names
        notes = []
        if test_names != train_names and not set(test_names) & set(train_names):
            notes.append(
                f"{self.train.source.name} and {self.test.source.name} share no class name: "
                "classes are matched by their numbers"
            )
        missing = test_classes[~np.isin(test_classes, train_classes)]
        if len(missing):
            count, names = int(np.isin(test, missing).sum()), self.class_names
            examples = ", ".join(names[c] if c < len(names) else str(c) for c in missing[:5])
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            notes.append(
                f"{count} of {np.sum(test >= 0)} evaluation examples are of classes that the "
                f"training part lacks ({examples}{more}): every prediction for them counts as wrong"
            )
        return notes

    def _copy_notes(self) -> list[str]:
        # If both are one set, its held-out part has no copies in the other part.
        if self.train.source is self.test.source or not len(self.test.rows):
            return []
        train, test = (identities(p.source, p.rows) for p in (self.train, self.test))
        copies = int(np.isin(test, train).sum())
        if not copies:
            return []
        return [
            f"{copies} of {len(test)} evaluation images are training images too: numbers on them "
            "measure memorization, not generalization"
        ]

    def labels(self, part: Part, index: np.ndarray) -> np.ndarray:
        """Return the labels (N,) of the examples `index` of a part, numbered as the training set's
        classes, -1 for no label.

        Each of two folders has its own numbering of classes. So classes are matched by name if the
        two sets share any; classes that the training set lacks are numbered after its own.
        """
        source, train_names = part.source, self.train.source.class_names
        if source.labels is None:
            return np.full(len(index), -1, np.int32)
        names, labels = source.class_names, source.labels[index]
        if names == train_names or not set(names) & set(train_names):
            return labels
        number = {name: i for i, name in enumerate(dict.fromkeys((*train_names, *names)))}
        return np.array([*(number[name] for name in names), -1], np.int32)[labels]

    def labelled_rows(
        self, part: Part, arrays: Sequence[np.ndarray], index: np.ndarray
    ) -> list[Labelled]:
        """Drop the rows whose example has no label.

        Args:
          arrays: (N, ...) each, one row per example.
          index: (N,), the examples of the rows.

        Raises:
          NotMeasurable: no example has a label.
        """
        labels = self.labels(part, index)
        has_label = labels >= 0
        if not has_label.any():
            raise NotMeasurable(f"{part.source.name}: none of {len(index)} examples has a label")
        if has_label.all():  # without a copy
            return [Labelled(rows, labels) for rows in arrays]
        return [Labelled(rows[has_label], labels[has_label]) for rows in arrays]

    def batches(self, part: Part, size: Size | None = None) -> features.Batches:
        """Return batches (images, index) of this process's rows of a part, resized to `size`, by
        default the view's.

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
        """Return at most `count` test examples, drawn evenly over their labels.

        Raises:
          UserError: `count` is below one.
        """
        if count < 1:
            raise UserError(f"examples = {count} must be positive")
        return self.test.some(count)

    def whole(self, part: Part, size: Size | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Read all images (N, H, W, C) uint8 of a part and their index, in every process."""
        return features.collect(lambda images, _: images, self.batches(part, size), self.mesh)

    def with_statistics(self, encoder: Encoder) -> Encoder:
        """Return the encoder with batch-norm statistics of at most `STATISTICS` training images, by
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
    """An encoder on two sets of images, or their raw pixels if the encoder is None.

    Args:
      probe: where features are read unless a protocol sets otherwise.
      tokenizer: tokenizer of the captions.
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
        """Class names of the training set; all labels use its numbering."""
        return self.images.train.source.class_names

    def probe_of(self, protocol: AtLayer) -> Probe:
        """Return where the protocol reads features."""
        return self.probe.at(protocol.stage, protocol.pool)

    def train(self, protocol: AtLayer) -> Labelled:
        """Return the training features, where the protocol reads them, and labels."""
        self.read([protocol])
        return self._read[True, self.probe_of(protocol)]

    def test(self, protocol: AtLayer) -> Labelled:
        """Return the test features, where the protocol reads them, and labels."""
        self.read([protocol])
        return self._read[False, self.probe_of(protocol)]

    def read(self, protocols: Sequence[AtLayer]) -> None:
        """Read, in one pass, all layers that these protocols need and that were not yet read."""
        requested = dict.fromkeys(self.probe_of(protocol) for protocol in protocols)
        probes = [probe for probe in requested if (True, probe) not in self._read]
        for train in (True, False) if probes else ():
            part = self.images.train if train else self.images.test
            for probe, labelled in zip(probes, self.labelled_features(part, probes), strict=True):
                self._read[train, probe] = labelled
            if not train:
                check_classes(*(self._read[t, probes[0]].labels for t in (True, False)))

    def labelled_features(self, part: Part, probes: Sequence[Probe]) -> list[Labelled]:
        """Read the labelled examples of a part at each of `probes`, in one pass.

        Raises:
          NotMeasurable: no example has a label, or all features of a probe are the same.
        """
        batches = self.images.batches(part, self.side)
        results = self.images.labelled_rows(part, *self.features_of(batches, probes))
        for labelled in results:
            check_varied(labelled.features, self.what)
        return results

    @property
    def what(self) -> str:
        """Noun for its features, for messages."""
        return "features" if self.encoder is not None else "raw pixels"

    @property
    def side(self) -> Size:
        """Size, in pixels, of the images that `features_of` takes."""
        view = self.images.view
        return view.size if self.encoder is not None else min(*view.sides, PIXELS)

    def features_of(
        self, batches: features.Batches, probes: Sequence[Probe]
    ) -> tuple[Sequence[np.ndarray], np.ndarray]:
        """Return the features (N, D) of each of `probes` and the index (N,) of the images, of this
        `side`; see `features.extract`.
        """
        if self.encoder is None:
            pixels, index = features.collect(lambda images, _: images, batches, self.images.mesh)
            rows = pixels.astype(np.float32).reshape(len(pixels), -1) / 255
            return [rows] * len(probes), index
        return features.extract(self.encoder, self.images.view, probes, batches, self.images.mesh)


def group_by(items: Sequence[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """Group the items by their key."""
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def some_rows(part: Part) -> np.ndarray:
    """Return the rows of a part.

    Raises:
      NotMeasurable: there are none.
    """
    if not len(part.rows):
        raise NotMeasurable(
            f"{part.source.name}: no example to evaluate on; give evaluation data, or at least two "
            "different training examples, a fifth of which are held out"
        )
    return part.rows


def measured(
    settings: Sequence[Protocol], subject: Subject
) -> Iterator[tuple[Protocol, dict[str, float]]]:
    """Measure each of `settings`, all of one protocol; yield it with its numbers by full name.

    Every recorded number passes through here; numbers that are not finite are no scores.

    Raises:
      DoesNotApply: the method or the data lack what the protocol measures.
      NotMeasurable: the data, or features of them, do not allow it.
      UserError: a setting does not fit the data or the network.
    """
    first = settings[0]
    if not first.applies(subject):
        raise DoesNotApply(f"it needs {first.needs}")
    for setting in settings:
        setting.check(subject)
    for setting, numbers in type(first).measure_all(settings, subject):
        yield setting, {f"{setting.prefix}/{name}": float(value) for name, value in numbers.items()}
