"""Unsupervised classification: k-means on features, and how well clusters agree with classes."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.metrics import (
    adjusted_mutual_info_score,
    adjusted_rand_score,
    normalized_mutual_info_score,
)
from sklearn.preprocessing import StandardScaler

from ssl_jax.core.errors import UserError
from ssl_jax.evals.base import AtLayer, Subject


@dataclass(frozen=True, kw_only=True)
class Clustering(AtLayer):
    """How well k-means clusters of the standardised training features agree with the classes.

    Attributes:
      clusters: their number; by default that of the classes.
      runs: from different starts, averaged.
    """

    clusters: int | None = None
    runs: int = 3

    def __post_init__(self) -> None:
        if self.runs < 1 or (self.clusters is not None and self.clusters < 1):
            raise UserError(
                f"clustering: clusters = {self.clusters} and runs = {self.runs} must be positive"
            )

    def measure(self, subject: Subject) -> dict[str, float]:
        features, labels = subject.train(self)
        clusters = self.clusters or subject.classes
        found = [
            agreement(kmeans(features, clusters, seed, 1, True), labels)
            for seed in range(self.runs)
        ]
        means = np.mean(found, axis=0)
        return {f"kmeans_{name}": mean for name, mean in zip(Agreement._fields, means, strict=True)}


class Agreement(NamedTuple):
    """Agreement of clusters with classes; 1 is perfect in all four.

    Attributes:
      acc: share of examples in a cluster assigned to their class, see `assign_clusters`.
      nmi: normalised mutual information, arithmetic mean of the entropies.
      ami: mutual information adjusted for chance.
      ari: Rand index adjusted for chance.
    """

    acc: float
    nmi: float
    ami: float
    ari: float


def kmeans(
    features: np.ndarray, clusters: int, seed: int = 0, restarts: int = 3, standardize: bool = False
) -> np.ndarray:
    """Cluster of each row, (N,) int32 in [0, clusters), by k-means++ and the best of `restarts`.

    Args:
      features: (N, D).
      clusters: their number.
      seed: of the starting points.
      restarts: runs from different starting points; the one of least inertia is kept.
      standardize: give each dimension mean 0 and standard deviation 1 first.

    Raises:
      UserError: fewer rows than clusters.
    """
    if not 1 <= clusters <= len(features):
        raise UserError(f"k-means: {clusters} clusters of {len(features)} examples")
    if standardize:
        features = StandardScaler().fit_transform(features)
    return KMeans(clusters, n_init=restarts, random_state=seed).fit_predict(features)


def assign_clusters(clusters: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The class of each cluster, (number of clusters,) int.

    One cluster a class, chosen to make as many examples right as possible (Hungarian method); if
    there are more clusters than classes, each of the others goes to its most frequent class, as in
    Self-Classifier (2103.10994).

    Args:
      clusters, labels: (N,) integers from 0.
    """
    num_clusters, num_classes = np.max(clusters) + 1, np.max(labels) + 1
    counts = np.zeros((max(num_clusters, num_classes),) * 2, np.int64)
    np.add.at(counts, (clusters, labels), 1)
    majority = counts.argmax(axis=1)
    # Square with empty rows or columns, as in the released code: ties are then broken alike.
    _, assigned = linear_sum_assignment(counts, maximize=True)
    return np.where(assigned < num_classes, assigned, majority)[:num_clusters]


def agreement(clusters: np.ndarray, labels: np.ndarray) -> Agreement:
    """ACC, NMI, AMI and ARI of (N,) cluster numbers against (N,) class numbers."""
    return Agreement(
        acc=float(np.mean(assign_clusters(clusters, labels)[clusters] == labels)),
        nmi=float(normalized_mutual_info_score(labels, clusters)),
        ami=float(adjusted_mutual_info_score(labels, clusters)),
        ari=float(adjusted_rand_score(labels, clusters)),
    )
