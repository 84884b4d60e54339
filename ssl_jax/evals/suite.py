"""The protocols that there are, and those that look at a run while it goes: the encoder beside raw
pixels and beside its own untrained weights, every number made the same way for all three.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import jax

from ssl_jax.core.errors import UserError, suggest
from ssl_jax.data.sources import Source
from ssl_jax.data.text import BYTES, Tokenizer
from ssl_jax.evals.attention import Attention
from ssl_jax.evals.base import Images, Protocol, Subject
from ssl_jax.evals.clustering import Clustering
from ssl_jax.evals.diagnostics import Diagnostics
from ssl_jax.evals.fewshot import FewShot
from ssl_jax.evals.image_retrieval import ImageRetrieval
from ssl_jax.evals.knn import Knn
from ssl_jax.evals.layers import Layers
from ssl_jax.evals.lidar import Lidar
from ssl_jax.evals.linear import Linear
from ssl_jax.evals.retrieval import Retrieval
from ssl_jax.objectives.base import Encoder, Objective, Probe


@dataclass(frozen=True)
class EvalsConfig:
    """The section `evals` of a config: what is measured while a run goes, and at its end.

    Attributes:
      every: steps between evaluations; 0 measures at the end only, -1 never.
      protocols: which of those below.
      max_train: so many examples of the training set at the most.
      max_eval: likewise of the evaluation set.
      batch_size: images of a forward pass.

    All further fields are the protocols that there are, each with its settings.
    """

    every: int = 0
    protocols: tuple[str, ...] = ("diagnostics", "knn", "fewshot", "clustering", "retrieval")
    max_train: int = 10000
    max_eval: int = 10000
    batch_size: int = 256
    diagnostics: Diagnostics = Diagnostics()
    lidar: Lidar = Lidar()
    layers: Layers = Layers()
    attention: Attention = Attention()
    knn: Knn = Knn()
    fewshot: FewShot = FewShot()
    clustering: Clustering = Clustering()
    linear: Linear = Linear()
    image_retrieval: ImageRetrieval = ImageRetrieval()
    retrieval: Retrieval = Retrieval()

    def __post_init__(self) -> None:
        if self.every < -1 or min(self.max_train, self.max_eval, self.batch_size) < 1:
            raise UserError("evals: every must be >= -1 and all other numbers positive")
        for name in self.protocols:
            self.protocol(name)

    @classmethod
    def known(cls) -> list[str]:
        """Names of all protocols."""
        return [f.name for f in dataclasses.fields(cls) if isinstance(f.default, Protocol)]

    def protocol(self, name: str) -> Protocol:
        """The protocol of this name, with its settings.

        Raises:
          UserError: there is none.
        """
        if name not in self.known():
            raise UserError(f"unknown evaluation {name!r}; {suggest(name, self.known())}")
        return getattr(self, name)  # type: ignore[no-any-return]


class Quality:
    """Measures encoders of one objective on one pair of data sets; see `Images` and `Subject`."""

    def __init__(
        self,
        objective: Objective,
        config: EvalsConfig,
        train: Source,
        test: Source | None,
        mesh: jax.sharding.Mesh,
        probe: Probe | None = None,
        tokenizer: Tokenizer = BYTES,
    ):
        self._config, self._tokenizer = config, tokenizer
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
        """What protocols look at: this encoder, or raw pixels."""
        return Subject(encoder, self.images, self._probe, self._tokenizer)

    def measure(
        self, encoder: Encoder | None, protocols: Sequence[str] | None = None
    ) -> dict[str, float]:
        """All numbers of an encoder, or of raw pixels, as `diag/...` and `eval/...`, by the named
        protocols or the config's.
        """
        subject = self.subject(encoder)
        found: dict[str, float] = {}
        for name in self._config.protocols if protocols is None else protocols:
            protocol = self._config.protocol(name)
            if protocol.applies(subject):
                numbers = protocol.measure(subject)
                found |= {f"{protocol.prefix}/{k}": float(v) for k, v in numbers.items()}
        return found

    def baselines(self, encoder: Encoder) -> dict[str, float]:
        """The same numbers for raw pixels (`pixels/...`) and an untrained encoder
        (`untrained/...`).

        The untrained encoder's batch-norm statistics are those of the data.
        """
        untrained = self.measure(self.images.with_statistics(encoder))
        pixels = self.measure(None)
        return {f"untrained/{k}": v for k, v in untrained.items()} | {
            f"pixels/{k}": v for k, v in pixels.items()
        }
