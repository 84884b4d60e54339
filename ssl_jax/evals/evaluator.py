"""The list of protocols, and their measurement during a run: of the encoder, of raw pixels and of
the encoder's own untrained weights, all three in the same way.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax

from ssl_jax.core import config
from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.ranges import Count, OrAll
from ssl_jax.data.sources import Source
from ssl_jax.data.text import BYTES, Tokenizer
from ssl_jax.evals.base import AtLayer, Images, Protocol, Subject, measured
from ssl_jax.evals.checks import NotMeasurable, not_finite
from ssl_jax.evals.protocols.attention import Attention
from ssl_jax.evals.protocols.attentive import Attentive
from ssl_jax.evals.protocols.classifier import Classifier
from ssl_jax.evals.protocols.cluster_head import ClusterHead
from ssl_jax.evals.protocols.clustering import Clustering
from ssl_jax.evals.protocols.corruptions import Corruptions
from ssl_jax.evals.protocols.diagnostics import Diagnostics
from ssl_jax.evals.protocols.fewshot import FewShot
from ssl_jax.evals.protocols.image_retrieval import ImageRetrieval
from ssl_jax.evals.protocols.knn import Knn
from ssl_jax.evals.protocols.layers import Layers
from ssl_jax.evals.protocols.lidar import Lidar
from ssl_jax.evals.protocols.linear import Linear
from ssl_jax.evals.protocols.logistic import Logistic
from ssl_jax.evals.protocols.online import Online
from ssl_jax.evals.protocols.patches import Patches
from ssl_jax.evals.protocols.propagation import Propagation
from ssl_jax.evals.protocols.retrieval import Retrieval
from ssl_jax.evals.protocols.segmentation import Segmentation
from ssl_jax.evals.protocols.svm import Svm
from ssl_jax.evals.protocols.zero_shot import ZeroShot
from ssl_jax.objectives.base import Encoder, Objective, Probe


@dataclass(frozen=True)
class EvalsConfig:
    """The section `evals` of a config: the measurements during a run and at its end.

    Attributes:
      every: steps between evaluations; 0 measures at the end only, -1 never.
      protocols: names of the protocols below to measure.
      max_train: most examples of the training set.
      max_eval: most examples of the evaluation set.
      batch_size: images per forward pass.

    All further fields are the protocols, each with its settings.
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
    diagnostics: Diagnostics = Diagnostics()
    lidar: Lidar = Lidar()
    layers: Layers = Layers()
    attention: Attention = Attention()
    online: Online = Online()
    knn: Knn = Knn()
    fewshot: FewShot = FewShot()
    clustering: Clustering = Clustering()
    cluster_head: ClusterHead = ClusterHead()
    classifier: Classifier = Classifier()
    linear: Linear = Linear()
    logistic: Logistic = Logistic()
    attentive: Attentive = Attentive()
    svm: Svm = Svm()
    image_retrieval: ImageRetrieval = ImageRetrieval()
    retrieval: Retrieval = Retrieval()
    zero_shot: ZeroShot = ZeroShot()
    corruptions: Corruptions = Corruptions()
    patches: Patches = Patches()
    segmentation: Segmentation = Segmentation()
    propagation: Propagation = Propagation()

    def __post_init__(self) -> None:
        config.check(self, "evals")
        for name in self.protocols:
            self.protocol(name)

    @classmethod
    def known(cls) -> list[str]:
        """Return the names of all protocols."""
        return [f.name for f in dataclasses.fields(cls) if isinstance(f.default, Protocol)]

    def protocol(self, name: str) -> Protocol:
        """Return the protocol of this name, with its settings.

        Raises:
          UserError: there is none.
        """
        if name not in self.known():
            raise UserError(f"unknown evaluation {name!r}; {suggest(name, self.known())}")
        return getattr(self, name)  # type: ignore[no-any-return]


class Quality:
    """Evaluator of the encoders of one objective on one pair of data sets; see `Images` and
    `Subject`.

    Args:
      probe: where features are read, by default as the method sets it.
      progress: called with a few words on the protocol that starts.
      say: called once with each one-line message on what cannot be measured and why.
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
    ):
        self._config, self._tokenizer, self._objective = config, tokenizer, objective
        self._progress = progress
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
        )

    def subject(self, encoder: Encoder | None) -> Subject:
        """Return the subject of the protocols: this encoder, or raw pixels if it is None."""
        return Subject(encoder, self.images, self._probe, self._tokenizer)

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
        if protocol.labels and subject.encoder is not None and not subject.labelled:
            self._report("no labels: only the label-free numbers can be measured")

    def _report(self, text: str) -> None:
        if text not in self._reported:
            self._reported.add(text)
            self._say(text)

    def baselines(self, encoder: Encoder) -> dict[str, float]:
        """Measure the same numbers for raw pixels (`pixels/...`) and an untrained encoder
        (`untrained/...`).

        The untrained encoder's batch-norm statistics are those of the data; it has no online probe,
        which would be untrained too. Without protocols it costs nothing.
        """
        if not self._config.protocols:
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
