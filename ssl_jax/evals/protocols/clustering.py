"""Unsupervised classification: k-means on features, and the agreement of clusters and classes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.metrics import (
    adjusted_mutual_info_score,
    adjusted_rand_score,
    normalized_mutual_info_score,
)
from sklearn.preprocessing import StandardScaler, normalize
from threadpoolctl import threadpool_limits

from ssl_jax.core.ranges import Count, Positive
from ssl_jax.evals.base import AtLayer, Subject
from ssl_jax.evals.checks import NotMeasurable
from ssl_jax.evals.linear_head import SMALL
from ssl_jax.evals.superclasses import Superclasses, read_superclasses
from ssl_jax.losses.shapes import check_shapes


def agreement_titles(name: str, title: str) -> dict[str, str]:
    """Return the titles of the numbers NAME_... of `agreements`, which start with `title`."""
    kinds = {"": "classes", "direct_": "superclasses"}
    return {
        f"{name}_{kind}{number}": f"{title}{what.format(classes)}"
        for kind, classes in kinds.items()
        for number, what in {
            "acc": " = {}",
            "nmi": " and {}, mutual information",
            "ami": " and {}, mutual information over chance",
            "ari": " and {}, Rand index over chance",
        }.items()
    } | {f"{name}_super_acc": f"{title} = classes of the right superclass"}


@dataclass(frozen=True, kw_only=True)
class Clustering(AtLayer):
    """Agreement of k-means clusters of the training features with the classes.

    Attributes:
      part: the images whose clusters are compared with their classes: "train", or "test", of which
        each goes to the cluster of the nearest centre (as Self-Classifier measures k-means).
      scaling: "standard": features of mean 0 and deviation 1; "unit": of length 1; "none".
      clusters: number of clusters; by default `factor` times the number of classes that occur.
      factor: above 1 for over-clustering, below for under-clustering.
      runs: number of runs from different starting points, averaged.
      superclasses: file of superclasses (`superclasses.read_superclasses`); classes that are not in
        it are left out.
    """

    titles: ClassVar[Mapping[str, str]] = agreement_titles("kmeans", "k-means clusters")
    scores: ClassVar[tuple[str, ...]] = ("kmeans",)
    decides: ClassVar[tuple[str, ...]] = ("kmeans_acc",)
    last_resort: ClassVar[bool] = True

    part: Literal["train", "test"] = "train"
    scaling: Literal["standard", "unit", "none"] = "standard"
    clusters: Count | None = None
    factor: Positive = 1.0
    runs: Count = 3
    superclasses: str | None = None

    def unused(self) -> Mapping[str, str]:
        if self.clusters is None:
            return {}
        return {"factor": f"the number is set, clusters = {self.clusters}"}

    def check(self, subject: Subject) -> None:
        super().check(subject)
        if self.superclasses:
            read_superclasses(self.superclasses, subject.class_names)

    def measure(self, subject: Subject) -> dict[str, float]:
        train, test = subject.train(self), subject.test(self)
        above = None
        if self.superclasses:
            above = read_superclasses(self.superclasses, subject.class_names)
            train, test = (part.rows(above.rows(part.labels)) for part in (train, test))
        classes = len(np.unique(train.labels))  # that occur: the others have nothing to cluster
        clusters = self.clusters or max(round(self.factor * classes), 1)
        features, test_features = self._scaled(train.features, test.features)
        scores = []
        for seed in range(self.runs):
            model = fit_kmeans(features, clusters, seed, restarts=1)
            if self.part == "train":
                scores.append(agreements(model.labels_, train.labels, above))
            else:
                scores.append(agreements(model.predict(test_features), test.labels, above))
        return {f"kmeans_{name}": float(np.mean([f[name] for f in scores])) for name in scores[0]}

    def _scaled(self, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.scaling == "standard":
            scaler = StandardScaler().fit(train)
            return scaler.transform(train), scaler.transform(test)
        return (normalize(train), normalize(test)) if self.scaling == "unit" else (train, test)


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
    features: np.ndarray,
    clusters: Count,
    seed: int = 0,
    restarts: int = 3,
    standardize: bool = False,
) -> np.ndarray:
    """Cluster each row, (N,) int32 in [0, clusters), by k-means++ and the best of `restarts`.

    Args:
      features: (N, D).
      clusters: number of clusters.
      seed: seed of the starting points.
      restarts: runs from different starting points; the one of least inertia is returned.
      standardize: scale each dimension to mean 0 and standard deviation 1 first.

    Raises:
      UserError: fewer rows than clusters.
    """
    if standardize:
        features = StandardScaler().fit_transform(features)
    return fit_kmeans(features, clusters, seed, restarts).labels_  # type: ignore[no-any-return]


def fit_kmeans(features: np.ndarray, clusters: Count, seed: int, restarts: int) -> KMeans:
    """Return scikit-learn's model of the clusters; arguments and errors are those of `kmeans`."""
    check_shapes("kmeans: features (N, D)", features)
    if not 1 <= clusters <= len(features):
        raise NotMeasurable(
            f"k-means: {clusters} clusters of {len(features)} examples; expected at least 1 and at "
            "most one per example"
        )
    # On small problems the threads of OpenMP wait for each other longer than they work.
    with threadpool_limits(1 if features.size < SMALL else None):
        return KMeans(clusters, n_init=restarts, random_state=seed).fit(features)


def assign_clusters(clusters: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Assign a class to each cluster, (number of clusters,) int.

    One cluster per class, chosen to classify as many examples correctly as possible (Hungarian
    method); if there are more clusters than classes, each of the others goes to its most frequent
    class, as in Self-Classifier (2103.10994).

    Args:
      clusters, labels: (N,) integers from 0.
    """
    check_shapes("assign_clusters: clusters, labels (N) int", clusters, labels)
    num_clusters, num_classes = np.max(clusters) + 1, np.max(labels) + 1
    counts = np.zeros((max(num_clusters, num_classes),) * 2, np.int64)
    np.add.at(counts, (clusters, labels), 1)
    majority = counts.argmax(axis=1)
    # Square with empty rows or columns, as in the released code: ties are then broken alike.
    _, assigned = linear_sum_assignment(counts, maximize=True)
    return np.where(assigned < num_classes, assigned, majority)[:num_clusters]


def named_classes(clusters: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the class (N,) that each example's cluster stands for, by `assign_clusters`.

    Clusters and classes without an example do not count: classes numbered 0, 2 and 7 are three.
    """
    check_shapes("named_classes: clusters, labels (N) int", clusters, labels)
    _, clusters = np.unique(clusters, return_inverse=True)
    classes, labels = np.unique(labels, return_inverse=True)
    return classes[assign_clusters(clusters, labels)[clusters]]


def agreements(
    clusters: np.ndarray, labels: np.ndarray, above: Superclasses | None = None
) -> Mapping[str, float]:
    """Return name -> number: the `agreement` with the classes and, if given, with superclasses.

    `super_acc` is the share of the examples whose cluster stands for a class of their superclass;
    the clusters are assigned to classes without the superclasses (Self-Classifier, section 4.2).
    `direct_acc` and the like are the agreement with the superclasses as if these were the classes.

    Args:
      clusters, labels: (N,), the labels all with a superclass.
    """
    numbers = agreement(clusters, labels)._asdict()
    if above is not None:
        correct = above.of[named_classes(clusters, labels)] == above.of[labels]
        direct = agreement(clusters, above.of[labels])._asdict()
        numbers["super_acc"] = float(np.mean(correct))
        numbers |= {f"direct_{name}": value for name, value in direct.items()}
    return numbers


def agreement(clusters: np.ndarray, labels: np.ndarray) -> Agreement:
    """Compute ACC, NMI, AMI and ARI of (N,) cluster numbers against (N,) class numbers."""
    check_shapes("agreement: clusters, labels (N) int", clusters, labels)
    return Agreement(
        acc=float(np.mean(named_classes(clusters, labels) == labels)),
        nmi=float(normalized_mutual_info_score(labels, clusters)),
        ami=float(adjusted_mutual_info_score(labels, clusters)),
        ari=float(adjusted_rand_score(labels, clusters)),
    )
