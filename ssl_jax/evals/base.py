"""Base classes of the evaluation protocols, and their subject: an encoder, or raw pixels, on a
training and a test set.
"""

import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, TypeVar

import jax
import numpy as np

from ssl_jax.augment.recipes import prepare
from ssl_jax.core import config
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Size, View
from ssl_jax.core.ranges import Integer
from ssl_jax.data.text import BYTES, Tokenizer
from ssl_jax.evals import features
from ssl_jax.evals.checks import DoesNotApply, check_classes, check_targets, check_varied
from ssl_jax.evals.images import Images, Labelled, Part
from ssl_jax.objectives.base import Encoder, Probe

T = TypeVar("T")
Array = jax.Array
PIXELS = 32  # side at which raw pixels of larger views are compared


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A way of measuring. Its fields are its settings: a sweep may vary each of them, and every
    result records all of them. A protocol defines `measure`, or `measure_all` if settings share
    work.

    Attributes:
      prefix: prefix of the names of its numbers.
      labels: whether it needs labels.
      multi: whether it also measures data with several labels per image.
      needs: requirements of the protocol, in words, for messages.
      every_stage: whether, if no stage is set, it measures all stages of the methods that ask for
        that (`Objective.probe_every_stage`).
      of_pixels: settings that apply to raw pixels only; `evaluate` does not sweep them.
      titles: number, without the prefix -> its name in tables, for every number that the protocol
        returns; see `titles.titles_of`.
      scores: starts of the names of its scores, for which larger is better and 1 is perfect.
      decides: starts of the names of its scores that decide whether a run has learned something.
      last_resort: whether they do only where no other protocol does.
    """

    prefix: ClassVar[str] = "eval"
    labels: ClassVar[bool] = True
    multi: ClassVar[bool] = False
    needs: ClassVar[str] = "labels of training and evaluation images"
    every_stage: ClassVar[bool] = False
    of_pixels: ClassVar[tuple[str, ...]] = ()
    titles: ClassVar[Mapping[str, str]] = {}
    scores: ClassVar[tuple[str, ...]] = ()
    decides: ClassVar[tuple[str, ...]] = ()
    last_resort: ClassVar[bool] = False

    def __post_init__(self) -> None:
        config.check(self, self.name())

    @classmethod
    def name(cls) -> str:
        """Return its name, that of its module."""
        return cls.__module__.rpartition(".")[2]

    def applies(self, subject: "Subject") -> bool:
        """Return whether its requirements are met: by default labels, or an encoder."""
        if not self.labels:
            return subject.encoder is not None
        return subject.images.labelled if self.multi else subject.labelled

    def unused(self) -> Mapping[str, str]:
        """Return the settings that have no effect given the others: name -> reason."""
        return {}

    def check(self, subject: "Subject") -> None:
        """Check everything that can be checked before an image is read.

        Raises:
          NotMeasurable: labels that allow no score.
          UserError: a setting has no effect, names a missing file, or does not fit the data.
        """
        config.check_used(self, self.name())
        if self.labels:
            subject.images.check_classes()

    def at_most(self, name: str, most: int, what: str) -> int:
        """Return the setting `name`, with its default lowered to `most`, the number of `what`.

        Raises:
          UserError: a larger value that is not the default: it would be recorded and not applied.
        """
        value = getattr(self, name)
        if value > most and value != config.defaults(type(self))[name]:
            raise UserError(f"{self.name()}: {name} = {value} is more than the {most} {what}")
        return min(value, most)

    def settled(self) -> Self:
        """Return the same protocol, with the defaults that depend on other settings filled in."""
        return self

    def measure(self, subject: "Subject") -> dict[str, float]:
        """Measure the subject; return name -> number.

        Raises:
          UserError: the data or the network do not allow it.
        """
        self.check(subject)
        return next(numbers for _, numbers in self.measure_all([self], subject))

    @classmethod
    def measure_all(
        cls, settings: Sequence[Self], subject: "Subject"
    ) -> Iterator[tuple[Self, dict[str, float]]]:
        """Yield each of `settings`, which have been checked, with its numbers, as soon as they are
        measured.
        """
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
        if cls.labels:
            subject.read(settings)
        for setting in settings:
            yield setting, setting.measure(subject)


@dataclass(frozen=True)
class Batch:
    """Images that a function of `Subject.map` gets.

    Attributes:
      view: the view that they are cropped to.
      raw: (B, H, W, C) uint8; of `Subject.map_clips`, (B, frames, H, W, C).
      index: (B,), the examples; -1 for padding.
    """

    view: View
    raw: Array
    index: Array

    @property
    def images(self) -> Array:
        """The images (B, H, W, C) float32, normalised."""
        return prepare(self.view, self.raw)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def call(
    fn: Callable[..., Any],
    view: View,
    options: tuple[Hashable, ...],
    encoder: Encoder | None,
    raw: Array,
    index: Array,
) -> Any:
    """Return `fn(encoder, batch, *options)`, compiled. The encoder is an argument, not a closure:
    one compile serves the weights of all steps.
    """
    return fn(encoder, Batch(view, raw, index), *options)


def no_network(folder: str) -> tuple[Encoder, View]:
    """Refuse another network, for subjects that cannot load one.

    Raises:
      UserError: always.
    """
    raise UserError(f"other={folder}: another run is loaded by `ssl-jax evaluate` only")


class Subject:
    """An encoder on two sets of images, or their raw pixels if the encoder is None.

    Args:
      probe: where features are read unless a protocol sets otherwise.
      tokenizer: tokenizer of the captions.
      network: loads the encoder of another run, and its view, by the folder's name.
    """

    def __init__(
        self,
        encoder: Encoder | None,
        images: Images,
        probe: Probe,
        tokenizer: Tokenizer = BYTES,
        network: Callable[[str], tuple[Encoder, View]] = no_network,
    ):
        self.encoder, self.images, self.probe, self.tokenizer = encoder, images, probe, tokenizer
        self.network = network
        self._read: dict[tuple[bool, Probe], Labelled] = {}  # (of the training set, layer)

    @property
    def labelled(self) -> bool:
        """True if both sets have examples with one label each."""
        return self.images.labelled and not self.multi

    @property
    def multi(self) -> bool:
        """True if the images have several labels each."""
        return self.images.multi

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
                check = check_targets if self.multi else check_classes
                check(*(self._read[t, probes[0]].labels for t in (True, False)))

    def labelled_features(self, part: Part, probes: Sequence[Probe]) -> list[Labelled]:
        """Read the labelled examples of a part at each of `probes`, in one pass.

        Raises:
          NotMeasurable: no example has a label, or all features of a probe are the same.
        """
        images = self.images
        rows, index = features.extract(
            self.encoder, images.view, probes, images.batches(part, self.side), images.mesh
        )
        results = images.labelled_rows(part, rows, index)
        for labelled in results:
            check_varied(labelled.features, self.what)
        return results

    def map(
        self,
        fn: Callable[..., Any],
        part: Part,
        *options: Hashable,
        batch_size: int | None = None,
    ) -> tuple[Any, np.ndarray]:
        """Return the results of `fn(encoder, batch, *options)`, an array or a tree of arrays (N,
        ...), for all images of a part, and their index (N,); see `features.collect`.

        Args:
          fn: a function of a module: it is compiled once.
          batch_size: images at once; by default that of all evaluations.
        """
        images = self.images
        if batch_size is not None:
            images = replace(images, batch_size=batch_size)
        return features.collect(
            functools.partial(call, fn, images.view, options, self.encoder),
            images.batches(part),
            images.mesh,
        )

    def map_clips(
        self, fn: Callable[..., Any], part: Part, *options: Hashable
    ) -> tuple[Any, np.ndarray]:
        """Return what `map` does, of clips (B, frames, H, W, C) in place of images if the encoder
        reads clips and the part has some.
        """
        config = self.encoder.net.config if self.encoder is not None else None
        frames = getattr(config, "frames", 0)
        if not frames or part.source.lengths is None:
            return self.map(fn, part, *options)
        images = self.images
        return features.collect(
            functools.partial(call, fn, images.view, options, self.encoder),
            images.clips(part, frames),
            images.mesh,
        )

    @property
    def what(self) -> str:
        """Noun for its features, for messages."""
        return "features" if self.encoder is not None else "raw pixels"

    @property
    def side(self) -> Size:
        """Size, in pixels, of the images whose features it reads."""
        view = self.images.view
        return view.size if self.encoder is not None else min(*view.sides, PIXELS)


def group_by(items: Sequence[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """Group the items by their key."""
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def measured(
    settings: Sequence[Protocol], subject: Subject
) -> Iterator[tuple[Protocol, dict[str, float]]]:
    """Measure each of `settings`, all of one protocol; iterate over each with its numbers by full
    name. What can be checked is checked before the first is measured.

    Every recorded number passes through here; numbers that are not finite are no scores.

    Raises:
      DoesNotApply: the method or the data lack what the protocol measures.
      NotMeasurable: the data, or features of them, do not allow it.
      UserError: a setting does not fit the data or the network.
    """
    first = settings[0]
    if not first.applies(subject):
        if first.labels and subject.multi and not first.multi and subject.images.labelled:
            raise DoesNotApply("it needs one label per image; these data have several")
        raise DoesNotApply(f"it needs {first.needs}")
    for setting in settings:
        setting.check(subject)
    return map(_with_full_names, type(first).measure_all(settings, subject))


def _with_full_names(
    result: tuple[Protocol, dict[str, float]],
) -> tuple[Protocol, dict[str, float]]:
    setting, numbers = result
    return setting, {f"{setting.prefix}/{name}": float(value) for name, value in numbers.items()}
