"""Quality while a run goes: the encoder beside raw pixels and beside its own untrained weights.

Without labels: RankMe, feature deviation, alignment, uniformity. With labels: weighted kNN, linear
classifiers from few labels, k-means. With captions, for image-text methods: retrieval. Every number
is made the same way for all three.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment.recipes import augment
from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.inputs import Inputs
from ssl_jax.data.pipeline import eval_arrays, local_part, place
from ssl_jax.data.sources import Source
from ssl_jax.data.text import BYTES, Tokenizer
from ssl_jax.evals import clustering, diagnostics, features, fewshot, knn, retrieval
from ssl_jax.objectives.base import Encoder, Objective, Probe

PROTOCOLS = ("knn", "fewshot", "clustering", "retrieval")
PIXELS = 32  # raw pixels of larger views are compared at this side
STATISTICS_BATCHES = 30  # a running average of momentum 0.9 has then forgotten 96 % of its start
RETRIEVED = 10  # captions that an image may name
DIAGNOSED = 2048  # examples for the label-free numbers, some of which hold all pairs


@dataclass(frozen=True)
class EvalsConfig:
    """The section `evals` of a config: what is measured while a run goes, and at its end.

    Attributes:
      every: steps between evaluations; 0 measures at the end only, -1 never.
      max_train: so many examples of the training set at the most.
      max_eval: likewise of the evaluation set.
      batch_size: images of a forward pass.
      knn_k: neighbours of the weighted kNN.
      knn_temperature: of its votes (0.07: Wu et al. 2018, arXiv 1805.01978).
      shots: labels a class for the linear classifiers.
      draws: random draws of those labels, averaged; fewer with more than 20 classes, which take
        longer and vary less: 400 / classes, at least 2.
      kmeans_runs: k-means runs from different starts, averaged.
    """

    every: int = 0
    max_train: int = 10000
    max_eval: int = 10000
    batch_size: int = 256
    knn_k: int = 20
    knn_temperature: float = 0.07
    shots: tuple[int, ...] = (1, 5, 10)
    draws: int = 20
    kmeans_runs: int = 3

    def __post_init__(self) -> None:
        positive = (self.max_train, self.max_eval, self.batch_size, self.knn_k, self.draws)
        if self.every < -1 or min(*positive, self.kmeans_runs, *self.shots, 1) < 1:
            raise UserError("evals: every must be >= -1 and all other numbers positive")
        if self.knn_temperature <= 0:
            raise UserError(f"evals.knn_temperature: {self.knn_temperature} is not positive")


class Part(NamedTuple):
    """Some rows of a data set."""

    source: Source
    rows: np.ndarray


class Quality:
    """Measures encoders of one objective on one pair of data sets.

    Without an evaluation set, every fifth training example is held out of the classifiers (the
    encoder saw its pixels, never its label).

    Args:
      probe: where features are read; by default where the objective says.
      tokenizer: of the captions.
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
    ):
        self._tokenizer = tokenizer
        self._objective, self._config, self._mesh = objective, config, mesh
        self._probe = probe or objective.probe
        self._view = objective.inputs().views[0]
        rows = np.arange(len(train))
        held_out = rows % 5 == 4
        train_rows = rows if test is not None else rows[~held_out]
        test_rows = np.arange(len(test)) if test is not None else rows[held_out]
        self._train = Part(train, _spread(train_rows, config.max_train))
        self._test = Part(test if test is not None else train, _spread(test_rows, config.max_eval))

    @property
    def labelled(self) -> bool:
        """Whether both sets have labels, of the same classes."""
        return self._train.source.labels is not None and self._test.source.labels is not None

    def measure(self, encoder: Encoder, protocols: Sequence[str] = PROTOCOLS) -> dict[str, float]:
        """All numbers of an encoder, as `diag/...` and `eval/...`."""
        scores = self.label_scores(encoder, protocols) | self._retrieve(encoder, protocols)
        return self._diagnose(encoder) | scores

    def label_scores(
        self, encoder: Encoder, protocols: Sequence[str] = PROTOCOLS
    ) -> dict[str, float]:
        """The numbers that need labels, as `eval/...`; none without labels."""
        return self._label_scores(lambda part: self._features(encoder, part), protocols)

    def baselines(self, encoder: Encoder, protocols: Sequence[str] = PROTOCOLS) -> dict[str, float]:
        """The same numbers for raw pixels (`pixels/...`) and an untrained encoder
        (`untrained/...`).

        The untrained encoder's batch-norm statistics are those of the data.
        """
        untrained = self.measure(self.with_statistics_of_the_data(encoder), protocols)
        pixels = self._label_scores(self._pixels, protocols)
        return {f"untrained/{k}": v for k, v in untrained.items()} | {
            f"pixels/{k}": v for k, v in pixels.items()
        }

    def with_statistics_of_the_data(self, encoder: Encoder) -> Encoder:
        """The encoder with batch-norm statistics of the training images."""
        batches = itertools.cycle(list(self._batches(self._train, self._view.size, few=True)))
        some = itertools.islice(batches, STATISTICS_BATCHES)
        return features.recompute_statistics(encoder, self._view, some, self._mesh)

    def _batches(self, part: Part, size: int, few: bool = False) -> features.Batches:
        """(images, index) of this process's rows of a part; `few`: no more than the statistics
        need.
        """
        batch = self._config.batch_size
        batch += -batch % self._mesh.size
        rows = _spread(part.rows, STATISTICS_BATCHES * batch) if few else part.rows
        batch = min(batch, max(len(rows) // self._mesh.size * self._mesh.size, self._mesh.size))
        channels, mine = self._objective.spec.channels, sharding.local_rows(self._mesh, batch)
        rows = local_part(rows, batch, mine)
        return eval_arrays(part.source, size, rows=rows, channels=channels, batch=len(mine))

    def _features(self, encoder: Encoder, part: Part) -> tuple[np.ndarray, np.ndarray]:
        batches = self._batches(part, self._view.size)
        return features.extract(encoder, self._view, self._probe, batches, self._mesh)

    def _pixels(self, part: Part) -> tuple[np.ndarray, np.ndarray]:
        images, index = self._images(part, min(self._view.size, PIXELS))
        return images.astype(np.float32).reshape(len(images), -1) / 255, index

    def _images(self, part: Part, size: int) -> tuple[np.ndarray, np.ndarray]:
        """All images of a part and their index, in every process."""
        return features.collect(lambda images: images, self._batches(part, size), self._mesh)

    def _label_scores(self, read: Any, protocols: Sequence[str]) -> dict[str, float]:
        for name in protocols:
            if name not in PROTOCOLS:
                raise UserError(f"unknown evaluation {name!r}; {suggest(name, PROTOCOLS)}")
        if not self.labelled:
            return {}
        train, test = _labelled(self._train, read), _labelled(self._test, read)
        data, labels = (train[0], train[1], test[0], test[1]), train[1]
        config, classes = self._config, self._train.source.num_classes
        scores: dict[str, float] = {}
        if "knn" in protocols:
            k = min(config.knn_k, len(labels))
            found = knn.knn_accuracy(*data, classes, (k,), (config.knn_temperature,))
            scores["knn_top1"] = found[k, config.knn_temperature]
        if "fewshot" in protocols:
            draws = min(config.draws, max(2, 400 // classes))
            for n, result in fewshot.fewshot_linear(*data, config.shots, draws).items():
                scores[f"fewshot{n}_top1"] = result.mean
        if "clustering" in protocols:
            runs = [
                clustering.agreement(clustering.kmeans(data[0], classes, seed, 1, True), labels)
                for seed in range(config.kmeans_runs)
            ]
            scores["kmeans_acc"] = float(np.mean([r.acc for r in runs]))
            scores["kmeans_nmi"] = float(np.mean([r.nmi for r in runs]))
        return {f"eval/{name}": float(value) for name, value in scores.items()}

    def _retrieve(self, encoder: Encoder, protocols: Sequence[str]) -> dict[str, float]:
        """Recall of captions among those of all evaluation images, where there are captions."""
        captions = self._test.source.captions
        if "retrieval" not in protocols or encoder.text is None or captions is None:
            return {}
        rows = np.array([i for i in self._test.rows if captions[int(i)]], np.int64)
        if not len(rows):
            return {}
        batches = self._batches(Part(self._test.source, rows), self._view.size)
        images, index = retrieval.embed_images(encoder, self._view, batches, self._mesh)
        texts, own = retrieval.distinct([captions[int(i)] for i in index])
        embedded = retrieval.embed_texts(encoder, texts, self._tokenizer, self._mesh)
        found = retrieval.recall(images, embedded, own, RETRIEVED)
        return {f"eval/retrieval{RETRIEVED}": found}

    @cached_property
    def _pairs(self) -> Any:
        """(encoder, images, rows) -> label-free numbers, from two augmentations of each image."""
        view, probe = self._view, self._probe

        def numbers(encoder: Encoder, images: jax.Array, index: jax.Array) -> dict[str, jax.Array]:
            twice = {"views": (jnp.stack([images, images], axis=1),), "index": index}
            inputs = Inputs(views=(dataclasses.replace(view, count=2),))
            pairs = augment(inputs, twice, jax.random.key(0))["views"][0]
            a, b = (features.select(encoder.features(pairs[:, i]), probe) for i in (0, 1))
            clean = features.read(encoder, view, probe, images)
            return {
                "diag/rankme": diagnostics.rankme(clean),
                "diag/feature_std": diagnostics.feature_std(clean),
                "diag/alignment": diagnostics.alignment(a, b),
                "diag/uniformity": diagnostics.uniformity(clean),
            }

        return jax.jit(numbers)

    def _diagnose(self, encoder: Encoder) -> dict[str, float]:
        part = Part(self._test.source, _spread(self._test.rows, DIAGNOSED))
        seen = place(self._images(part, self._view.size), sharding.replicated(self._mesh))
        return {k: float(v) for k, v in jax.device_get(self._pairs(encoder, *seen)).items()}


def _labelled(
    part: Part, read: Callable[[Part], tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """(features, labels) of the examples of a part that have a label."""
    assert part.source.labels is not None
    found, index = read(part)
    labels = part.source.labels[index]
    return found[labels >= 0], labels[labels >= 0]


def _spread(rows: np.ndarray, limit: int) -> np.ndarray:
    """At most `limit` rows, evenly over all of them: a folder's classes lie one after another."""
    if len(rows) <= limit:
        return rows
    return rows[np.linspace(0, len(rows) - 1, limit).astype(np.int64)]
