"""DeepCluster: deep clustering for unsupervised learning of visual features (1807.05520)."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core import rng, tree
from ssl_jax.core.ranges import Count, Positive, Several
from ssl_jax.losses.cross_entropy import cross_entropy
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.nets.functional import Net
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, DataPass, Encoder, Group, Heads, Objective, View
from ssl_jax.objectives.parts import memory
from ssl_jax.objectives.parts.kmeans import check_components, kmeans, pca_whiten
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.views import fold

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class DeepCluster(Objective):
    """Alternates between clustering the features of all images by k-means and learning to predict
    the clusters.

    Each clustering gives new clusters, so the classifier restarts with it. Instead of drawing
    images uniformly over the clusters, the loss is weighted by one over a cluster's size, which the
    paper states is equivalent (section 3.3). Other differences from the released code: no Sobel
    filter as in its AlexNet, and the classifier, which has no momentum there, shares the optimizer
    with the rest.

    Attributes:
      view: crop and augmentation of the training images.
      clusters: k of k-means.
      whitened: number of principal components that are clustered.
      iterations: iterations of k-means.
      epochs: epochs between two clusterings.
    """

    family: ClassVar[str] = "clustering"
    needs: ClassVar[str] = "a pass over the data set every epoch"
    refresh_groups: ClassVar[tuple[str, ...]] = ("classifier",)

    view: View = View(224, area=(0.08, 1.0), recipe="mae")
    clusters: Several = 10000
    whitened: Count = 256
    iterations: Count = 20
    epochs: Positive = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        memory.check_clusters("deepcluster", self.clusters, self.spec.num_examples)
        check_components(self.whitened, self.feature_dim)

    @cached_property
    def classifier(self) -> Net:
        return mlp_head(self.feature_dim, (self.clusters,), init="normal0.01")

    @cached_property
    def networks(self) -> Networks:
        return self.backbone_and(classifier=self.classifier)

    def groups(self) -> dict[str, Group]:
        return {"classifier": Group("^classifier/")}

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.networks.init(key)
        labels = memory.balanced_labels(
            rng.named(key, "labels"), self.spec.num_examples, self.clusters
        )
        weights = jnp.ones((self.clusters,), jnp.float32)
        return params, {"stats": stats, "assignments": labels, "weights": weights}

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images = fold(batch["views"][0])
        nets = self.networks.bind(params, extra["stats"])
        logits = nets.classifier(nets.backbone(images).pooled)
        labels = jnp.repeat(extra["assignments"][batch["index"]], self.view.count)
        losses = extra["weights"][labels] * cross_entropy(logits, labels)
        metrics = {
            "accuracy": jnp.mean(logits.argmax(-1) == labels),
            "clusters": jnp.sum(extra["weights"] > 0),
        }
        return jnp.mean(losses), Aux(dict(extra, stats=nets.stats), metrics=metrics)

    def encoder(self, params: Tree, extra: Tree) -> Encoder:
        heads = Heads.of(self.classifier, params["classifier"])
        return replace(super().encoder(params, extra), clusters=heads)

    def refresh_steps(self) -> Collection[int]:
        every = max(round(self.epochs * self.spec.steps_per_epoch), 1)
        return range(0, self.spec.total_steps, every)

    def refresh(
        self, params: Tree, extra: Tree, features: DataPass | None, key: Array, step: Array
    ) -> tuple[Tree, Tree]:
        assert features is not None
        points = l2_normalize(pca_whiten(*features, self.whitened))
        clustering = kmeans(
            points,
            features.present,
            self.clusters,
            rng.named(key, "kmeans"),
            iterations=self.iterations,
        )
        nonempty = clustering.counts > 0
        share = jnp.sum(features.present) / jnp.sum(nonempty)  # mean size of a nonempty cluster
        weights = jnp.where(nonempty, share / jnp.maximum(clustering.counts, 1), 0)
        classifier, _ = self.classifier.init(rng.named(key, "classifier"))
        classifier = tree.cast_like(classifier, params["classifier"])
        extra = dict(
            extra,
            assignments=clustering.assignments,
            weights=weights.astype(extra["weights"].dtype),
        )
        return dict(params, classifier=classifier), extra


make = DeepCluster.make
