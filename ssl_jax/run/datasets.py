"""`Datasets`: the data sets that a config names, opened on demand, and their facts for a `Spec`."""

import dataclasses
import functools
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ssl_jax.core import distributed, files
from ssl_jax.core.errors import UserError
from ssl_jax.data import hierarchy, subset
from ssl_jax.data.pipeline import DataConfig, check_in_memory
from ssl_jax.data.reader import num_channels
from ssl_jax.data.sources import Source, held_out, open_source
from ssl_jax.data.sources.control import EnvironmentSource
from ssl_jax.data.survey import Survey, read_alike, survey
from ssl_jax.data.text import BYTES, Tokenizer, from_json, open_tokenizer
from ssl_jax.objectives.base import Spec, Stream
from ssl_jax.run.resolved import ResolvedConfig
from ssl_jax.training import workdir
from ssl_jax.training.loop import TrainConfig

RANGE_BEFORE = (0.0, 65535.0)  # of wide pixels, in runs of versions without `data.range`
TOKENIZER = "tokenizer.json"  # in the folder of a run


def range_of(config: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the range of pixels that are not 8-bit, from a run's resolved config; () if no run
    made it.
    """
    data = config.get("data")
    return tuple(data.get("range", RANGE_BEFORE)) if isinstance(data, Mapping) else ()


@dataclasses.dataclass(frozen=True)
class Facts:
    """Facts on the training data that a `Spec` needs, which so can be made without the data."""

    name: str
    examples: int
    classes: int
    channels: int = 3
    streams: tuple[Stream, ...] = ()
    vocabulary: int = BYTES.vocabulary
    actions: int = 0


def make_spec(train: TrainConfig, facts: Facts) -> Spec:
    """Build the spec of a run on such data.

    Raises:
      UserError: fewer examples than a batch.
    """
    if facts.examples < train.batch_size:
        most = 2 ** max(facts.examples.bit_length() - 1, 0)
        raise UserError(
            f"train.batch_size: {train.batch_size} is more than the {facts.examples} examples of "
            f"{facts.name}; set --config.train.batch_size={most}, or less"
        )
    epoch = facts.examples // train.batch_size
    return Spec(
        global_batch=train.batch_size,
        num_examples=facts.examples,
        num_classes=facts.classes,
        steps_per_epoch=epoch,
        total_steps=train.steps or max(round(train.epochs * epoch), 1),
        channels=facts.channels,
        streams=facts.streams,
        vocabulary=facts.vocabulary,
        actions=facts.actions,
    )


@dataclasses.dataclass(frozen=True)
class Datasets(ResolvedConfig):
    """Data sets of a run, opened when they are first used."""

    @cached_property
    def source(self) -> Source:
        """Training set."""
        return subset.fraction(self.evals_source, self.data.fraction)

    @cached_property
    def evals_source(self) -> Source:
        """Training set of evaluations: `source` before `data.fraction`."""
        source = self._opened
        if self.survey.value_range:
            source.read_in(self.survey.value_range)
        if self.data.cache == "device":
            check_in_memory(source)
        return source

    @cached_property
    def _opened(self) -> Source:
        """Training set of evaluations, before the range of its pixels is set."""
        return self._parts[0]

    @property
    def holdout(self) -> Source | None:
        """Training images that `data.holdout` holds out; None without any."""
        source = self._parts[1]
        if source is not None and self.survey.value_range:
            source.read_in(self.survey.value_range)
        return source

    @cached_property
    def _parts(self) -> tuple[Source, Source | None]:
        """Training set of evaluations, and what `data.holdout` holds out of it."""
        if not self.data.train:
            raise UserError(
                "no training data; set it, --data=folder:/path (docs/data.md lists all kinds)"
            )
        source = self._folds[0] if self.data.fold else open_source(self.data.train, "train")
        if isinstance(source, EnvironmentSource):
            return self._environment(source), None
        if self.data.hierarchy:
            hierarchy.add_wider_classes(source, self.data.hierarchy)
        if self.data.labelled:
            source = subset.labelled(source, self.data.labelled, self.data.draw)
        return subset.holdout(source, self.data.holdout) if self.data.holdout else (source, None)

    def _environment(self, source: EnvironmentSource) -> EnvironmentSource:
        """Return the environment with the settings of the section `control`.

        Raises:
          UserError: settings for data sets of images.
        """
        keys = ("labelled", "hierarchy", "range", "cache", "channels", "fold", "fraction")
        for key in (*keys, "holdout"):
            if getattr(self.data, key) != getattr(DataConfig, key):
                raise UserError(f"data.{key}: {source.name} is an environment; leave it out")
        return source.with_settings(self.control)

    @cached_property
    def survey(self) -> Survey:
        """Range and bands of the pixels: those of the existing run, else from a sample of the
        images, the same in all processes.
        """
        old = self._existing
        if old is not None and self.data.range not in ((), range_of(old)):
            old = None  # another range is set
        channels = int(old["spec"].get("channels", 3)) if old else 3
        if old and ("spec" in self.raw or "range" in old.get("data", {})):
            return Survey(range_of(old), channels)
        look = functools.partial(survey, self._opened, self.data.channels, self.data.range)
        facts = distributed.agreed(lambda: dataclasses.asdict(look()))
        if old:  # begun before there was `data.range`
            return Survey(RANGE_BEFORE if facts["value_range"] else (), channels)
        return Survey(tuple(facts["value_range"]), facts["bands"], tuple(facts["lines"]))

    def opened(self, data: str, split: Literal["train", "eval"]) -> Source:
        """Open another data set with the run's pixel range; if that is 8-bit, with its own."""
        return read_alike(open_source(data, split), self.survey.value_range)

    @cached_property
    def _folds(self) -> tuple[Source, Source]:
        train = open_source(self.data.train, "train")
        if isinstance(train, EnvironmentSource):
            self._environment(train)  # an environment has no folds
        return subset.fold(train, self._named_eval_source, self.data.fold)

    @cached_property
    def streams(self) -> dict[str, Source]:
        """Additional training sets, by name."""
        if self.data.streams and self.data.cache == "device":
            raise UserError("data.cache=device excludes data.streams; use data.cache=none")
        return {name: self.opened(data, "train") for name, data in self.data.streams.items()}

    @cached_property
    def available_streams(self) -> dict[str, Source]:
        """`streams` for those who can do without: none if one of them is elsewhere by now."""
        try:
            return self.streams
        except UserError:
            return {}

    @cached_property
    def eval_source(self) -> Source | None:
        """Evaluation set: the configured one, or what the training data hold out; with `data.fold`
        its part of both sets.
        """
        source = self._folds[1] if self.data.fold else self._named_eval_source
        if source is not None and self.survey.value_range:
            source.read_in(self.survey.value_range)
        return source

    @property
    def _named_eval_source(self) -> Source | None:
        source = (
            open_source(self.data.eval, "eval") if self.data.eval else held_out(self.data.train)
        )
        return self._environment(source) if isinstance(source, EnvironmentSource) else source

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Tokenizer of the captions: the one saved in the run's folder, else the config's."""
        saved = self.folder / TOKENIZER if self.folder else None
        if self.data.tokenizer and saved and saved.is_file() and workdir.started(saved.parent):
            return from_json(saved.read_text(), str(saved))
        captions = self.source.captions if self.data.tokenizer.startswith("train:") else None
        return open_tokenizer(self.data.tokenizer, captions)

    def keep_tokenizer(self, folder: Path) -> None:
        """Save the tokenizer once, except that of bytes, so that its file may move or change."""
        exists = (folder / TOKENIZER).is_file() and workdir.started(folder)
        if self.tokenizer is not BYTES and not exists:
            files.write_text(folder / TOKENIZER, self.tokenizer.json)

    def _check_bands(self, name: str, stream: Source, channels: int) -> None:
        """Check that the images of a stream can be read with the channels of the training set.

        Raises:
          UserError: they cannot.
        """
        own = stream.arrays.shape[-1] if stream.arrays is not None else survey(stream).bands
        pictures = (1, 3)  # grey and colour are converted into each other
        if own != channels and not (own in pictures and channels in pictures):
            raise UserError(
                f"data.streams.{name}: {stream.name} has {own} channels, and the training images "
                f"{self.source.name} are read with {channels}; use images with the same channels"
            )

    @cached_property
    def facts(self) -> Facts:
        """Facts on the data that the config names."""
        channels = num_channels(self.source, self.data.channels, self.survey.bands)
        for name, stream in self.streams.items():
            self._check_bands(name, stream, channels)
        return Facts(
            self.source.name,
            len(self.source),
            self.source.num_classes,
            channels,
            tuple(
                Stream(name, len(stream), stream.num_classes)
                for name, stream in self.streams.items()
            ),
            self.tokenizer.vocabulary,
            self.source.actions,
        )
