"""The list of protocols, and their measurement during a run: of the encoder, of raw pixels and of
the encoder's own untrained weights, all three in the same way.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import jax

from ssl_jax.core import config
from ssl_jax.core.inputs import View
from ssl_jax.core.ranges import Count, OrAll
from ssl_jax.data.sources import Source
from ssl_jax.data.text import BYTES, Tokenizer
from ssl_jax.evals import protocols
from ssl_jax.evals.base import AtLayer, Protocol, Subject, measured, no_network
from ssl_jax.evals.checks import NotMeasurable, not_finite
from ssl_jax.evals.images import Images
from ssl_jax.objectives.base import Encoder, Objective, Probe

T = TypeVar("T")


def with_protocols(cls: type[T]) -> type[T]:
    """Add a field per protocol, with its default settings, to a frozen dataclass."""
    fields = [(name, kind, kind()) for name, kind in protocols.known().items()]
    extended = dataclasses.make_dataclass(cls.__name__, fields, bases=(cls,), frozen=True)
    extended.__module__, extended.__doc__ = cls.__module__, cls.__doc__
    return extended


@with_protocols
@dataclass(frozen=True)
class EvalsConfig:
    """The section `evals` of a config: the measurements during a run and at its end.

    Attributes:
      every: steps between evaluations; 0 measures at the end only, -1 never.
      protocols: names of the protocols to measure.
      max_train: most examples of the training set.
      max_eval: most examples of the evaluation set.
      batch_size: images per forward pass.
      baselines: whether to measure the network before training and raw pixels too.

    All further fields are the protocols by name, each with its settings.
    """

    every: OrAll = 0
    protocols: tuple[str, ...] = (
        "diagnostics",
        "classifier",
        "online",
        "knn",
        "fewshot",
        "clustering",
        "retrieval",
    )
    max_train: Count = 10000
    max_eval: Count = 10000
    batch_size: Count = 256
    baselines: bool = True

    def __post_init__(self) -> None:
        config.check(self, "evals")
        for name in self.protocols:
            self.protocol(name)

    def protocol(self, name: str) -> Protocol:
        """Return the protocol of this name, with its settings.

        Raises:
          UserError: there is none.
        """
        return getattr(self, protocols.check(name))  # type: ignore[no-any-return]

    def in_use(self) -> dict[str, Any]:
        """Return the section as nested dicts, without the protocols that it neither measures nor
        sets.
        """
        unused = {
            name
            for name, kind in protocols.known().items()
            if name not in self.protocols and self.protocol(name) == kind()
        }
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in unused}  # type: ignore[call-overload]


class Evaluator:
    """Evaluator of the encoders of one objective on one pair of data sets; see `Images` and
    `Subject`.

    Args:
      probe: where features are read, by default as the method sets it.
      progress: called with a few words on the protocol that starts.
      streams: the method's further training sets, by name.
      say: called once with each one-line message on what cannot be measured and why.
      network: see `Subject`.
    """

    def __init__(
        self,
        objective: Objective,
        config: EvalsConfig,
        train: Source,
        test: Source | None,
        mesh: jax.sharding.Mesh,
        probe: Probe | None = None,
        tokenizer: Tokenizer = BYTES,
        progress: Callable[[str], None] = lambda text: None,
        say: Callable[[str], None] = lambda text: None,
        streams: Mapping[str, Source] = MappingProxyType({}),
        network: Callable[[str], tuple[Encoder, View]] = no_network,
    ):
        self._config, self._tokenizer, self._objective = config, tokenizer, objective
        self._progress, self._network = progress, network
        self._say, self._reported = say, set[str]()
        self._names: dict[str, set[str]] = {}  # of the numbers that each protocol returned
        self._probe = probe or objective.probe
        self.images = Images.of(
            train,
            test,
            config.max_train,
            config.max_eval,
            view=objective.inputs().views[0],
            channels=objective.spec.channels,
            batch_size=config.batch_size,
            mesh=mesh,
            streams=streams,
        )

    def subject(self, encoder: Encoder | None) -> Subject:
        """Return the subject of the protocols: this encoder, or raw pixels if it is None."""
        return Subject(encoder, self.images, self._probe, self._tokenizer, self._network)

    def spread_over_stages(self, settings: Sequence[Protocol]) -> list[Protocol]:
        """Return `settings`, with one copy per stage of those that leave the stage open, if both
        the protocol and the method ask for that (`Protocol.every_stage`,
        `Objective.probe_every_stage`).
        """
        out: list[Protocol] = []
        for setting in settings:
            # The network's own output is that of the last stage.
            if (
                isinstance(setting, AtLayer)
                and setting.stage is None
                and setting.pool != "pooled"
                and setting.every_stage
                and self._objective.probe_every_stage
            ):
                count = len(self._objective.stage_shapes.stages)
                out += [dataclasses.replace(setting, stage=s) for s in range(-count, 0)]
            else:
                out.append(setting)
        return list(dict.fromkeys(out))

    def measure(
        self, encoder: Encoder | None, protocols: Sequence[str] | None = None
    ) -> dict[str, float]:
        """Return all numbers of an encoder, or of raw pixels, as `diag/...` and `eval/...`, by the
        named protocols or the config's.

        A protocol that the data or the features do not allow is reported and skipped; its numbers
        are NaN if an earlier encoder had them, so that the old ones do not pass for this encoder's.

        Raises:
          UserError: a setting does not fit the data or the network.
        """
        subject = self.subject(encoder)
        results: dict[str, float] = {}
        names = self._config.protocols if protocols is None else protocols
        what = "" if encoder is not None else "raw pixels, "
        for number, name in enumerate(names, 1):
            self._progress(f"{what}{name} ({number} of {len(names)})")
            protocol = self._config.protocol(name)
            try:
                if not protocol.applies(subject):
                    self._missing(protocol, subject)
                    continue
                ((_, numbers),) = measured([protocol], subject)
            except NotMeasurable as e:
                self._report(f"{name}: not measured: {e}")
                numbers = dict.fromkeys(self._names.get(name, ()), float("nan"))
            else:
                if broken := not_finite(numbers):
                    text = f"{name}: no score: not finite, or one prediction for all images"
                    self._report(f"{text}: {', '.join(broken)}")
                if zero := [k for k, v in numbers.items() if k.endswith("_top1") and v == 0]:
                    self._report(f"{name}: {', '.join(zero)} is 0: no prediction is right")
                if encoder is not None:
                    self._names.setdefault(name, set()).update(numbers)
            results |= numbers
        return results

    def _missing(self, protocol: Protocol, subject: Subject) -> None:
        """Report missing labels, but nothing that only the method lacks: other methods have it."""
        if protocol.labels and subject.encoder is not None and not subject.images.labelled:
            self._report("no labels: only the label-free numbers can be measured")

    def _report(self, text: str) -> None:
        if text not in self._reported:
            self._reported.add(text)
            self._say(text)

    def baselines(self, encoder: Encoder) -> dict[str, float]:
        """Measure the same numbers for raw pixels (`pixels/...`) and an untrained encoder
        (`untrained/...`).

        The untrained encoder's batch-norm statistics are those of the data; it has no online probe,
        which would be untrained too. Without protocols, or if the config wants no baselines, it
        costs nothing.
        """
        if not self._config.protocols or not self._config.baselines:
            return {}
        for note in self.images.notes():
            self._report(note)
        if self._objective.inputs().label and self.images.train.source is self.images.test.source:
            self._report(
                "the method trains on the held-out images with their labels, so classifier and "
                "online do not measure unseen images; give evaluation data"
            )
        bare = dataclasses.replace(encoder, online=None)
        try:
            untrained = self.measure(self.images.with_statistics(bare))
        except NotMeasurable as e:  # no image to take statistics of
            self._report(f"not measured: {e}")
            return {}
        self._names.clear()
        pixels = self.measure(None)
        return {f"untrained/{k}": v for k, v in untrained.items()} | {
            f"pixels/{k}": v for k, v in pixels.items()
        }
