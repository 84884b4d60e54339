"""Quality while a run goes: the encoder beside raw pixels and beside its own untrained weights.

Without labels: RankMe, feature deviation, alignment, uniformity. With labels: weighted kNN, linear classifiers from few
labels, and k-means. Every number is made the same way for all three kinds of features.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import jax
import numpy as np

from ssl_jax.augment.recipes import augment
from ssl_jax.core import rng, sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Inputs, View
from ssl_jax.data.pipeline import eval_batches
from ssl_jax.data.sources import Source
from ssl_jax.evals import clustering, diagnostics, features, fewshot, knn
from ssl_jax.objectives.base import Encoder, Probe

PIXELS = 32  # raw pixels of larger views are compared at this side
STATISTICS_BATCHES = 30  # a running average of momentum 0.9 has then forgotten 96 % of where it began


@dataclass(frozen=True)
class EvalsConfig:
    """The section `evals` of a config: what is measured while a run goes, and at its end.

    Attributes:
      every: steps between evaluations; 0 measures at the end only, -1 never.
      max_train, max_eval: so many examples at the most of the training and of the evaluation set.
      batch_size: images of a forward pass.
      knn_k, knn_temperature: of the weighted kNN (0.07: Wu et al. 2018).
      shots: labels a class for the linear classifiers.
      draws: random draws of those labels, averaged.
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


@dataclass(frozen=True)
class Features:
    """Features (N, D) float32 of the training and of the evaluation images, with labels where there are any."""

    train: np.ndarray
    train_labels: np.ndarray | None
    test: np.ndarray
    test_labels: np.ndarray | None


def labelled(f: Features, config: EvalsConfig, num_classes: int, protocols: tuple[str, ...]) -> dict[str, float]:
    """The named protocols ("knn", "fewshot", "clustering") on one kind of features."""
    assert f.train_labels is not None and f.test_labels is not None
    out: dict[str, float] = {}
    if "knn" in protocols:
        out["knn_top1"] = knn.accuracy(
            f.train, f.train_labels, f.test, f.test_labels,
            k=min(config.knn_k, len(f.train)), temperature=config.knn_temperature,
            num_classes=num_classes,
        )
    if "fewshot" in protocols:
        found = fewshot.few_label_accuracy(
            f.train, f.train_labels, f.test, f.test_labels, shots=config.shots, draws=config.draws
        )
        out |= {f"fewshot{n}_top1": mean for n, (mean, _) in found.items()}
    if "clustering" in protocols:
        acc, nmi = clustering.kmeans_scores(f.train, f.train_labels, num_classes, config.kmeans_runs)
        out |= {"kmeans_acc": acc, "kmeans_nmi": nmi}
    return out


PROTOCOLS = ("knn", "fewshot", "clustering")
