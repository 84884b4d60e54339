"""DeeperCluster: unsupervised pre-training of image features on non-curated data (1905.01278)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.augment import geometric
from ssl_jax.core import rng, tree
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, Positive, Whole
from ssl_jax.losses.cross_entropy import cross_entropy
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, DataPass, Encoder, Group, Heads, Objective, View
from ssl_jax.objectives.parts import memory
from ssl_jax.objectives.parts.kmeans import check_components, pca_whiten, two_level_kmeans
from ssl_jax.objectives.parts.networks import Bound, Networks
from ssl_jax.objectives.parts.views import fold

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class DeeperCluster(Objective):
    """Predicts rotation and cluster of an image together, in two levels (section 3.3).

    k-means splits the images into super-clusters, and each of these into clusters. A super-class is
    a super-cluster at one rotation: one head tells super-classes apart, and each super-class has a
    head of its own for its clusters. Both start anew with each clustering. The released code trains
    each super-class on its own devices, here the global batch mixes them; the gradient is the same:
    of the mean over super-classes, and for a super-class's own head of its mean alone. Instead of
    drawing images uniformly over the clusters, the loss is weighted by one over a cluster's size.

    Attributes:
      view: crop and augmentation of the training images, before the rotation.
      super_clusters: number of super-clusters.
      rotate: whether images are rotated by 0, 90, 180 or 270 degrees.
      clusters: number of clusters over all super-clusters.
      whitened: number of principal components that are clustered; 0 for all.
      iterations: iterations of k-means, at both levels.
      epochs: epochs between two clusterings.
    """

    family: ClassVar[str] = "clustering"
    needs: ClassVar[str] = "a pass over the data set every few epochs"
    refresh_groups: ClassVar[tuple[str, ...]] = ("classifiers",)

    view: View = View(224, area=(0.08, 1.0), recipe="rotnet")
    super_clusters: Count = 4
    rotate: bool = True
    clusters: Count = 320000
    whitened: Whole = 0
    iterations: Count = 10
    epochs: Positive = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        memory.check_clusters("deepercluster", self.clusters, self.spec.num_examples)
        if self.clusters % self.super_clusters:
            raise UserError(
                f"objective.clusters: {self.clusters} are not a multiple of the "
                f"{self.super_clusters} super_clusters"
            )
        check_components(self.whitened, self.feature_dim)
        if self.rotate:
            self.view.check_square()

    @property
    def angles(self) -> int:
        return 4 if self.rotate else 1

    @property
    def super_classes(self) -> int:
        """Number of super-classes; that of super-cluster s at rotation r is s * angles + r."""
        return self.super_clusters * self.angles

    @property
    def per_super_cluster(self) -> int:
        """Number of clusters of a super-cluster."""
        return self.clusters // self.super_clusters

    @cached_property
    def networks(self) -> Networks:
        widths = self.super_classes, self.super_classes * self.per_super_cluster
        upper, lower = (mlp_head(self.feature_dim, (n,), init="normal0.01") for n in widths)
        return self.backbone_and(super_classifier=upper, classifiers=lower)

    def groups(self) -> dict[str, Group]:
        return {"classifiers": Group("^(super_classifier|classifiers)/")}

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.networks.init(key)
        where, each = rng.named(key, "labels"), self.per_super_cluster
        labels = memory.balanced_labels(where, self.spec.num_examples, self.clusters)
        return params, {
            "stats": stats,
            "assignments": jnp.stack([labels // each, labels % each], axis=1),
            "weights": jnp.ones((self.super_clusters, each), jnp.float32),
        }

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images = fold(batch["views"][0])
        rotations = self.rotations(key, batch["index"]).reshape(-1)  # (B count,)
        owners = jnp.repeat(extra["assignments"][batch["index"]], self.view.count, axis=0)
        super_class, cluster = owners[:, 0] * self.angles + rotations, owners[:, 1]

        # A head's gradient is that of the mean over its own super-class.
        own = lambda w: w + (self.super_classes - 1) * (w - jax.lax.stop_gradient(w))  # noqa: E731
        params = dict(params, classifiers=jax.tree.map(own, params["classifiers"]))
        nets = self.networks.bind(params, extra["stats"])
        features = nets.backbone(self.turned(images, rotations)).pooled
        upper, lower = self.logits(nets, features)
        lower = jnp.take_along_axis(lower, super_class[:, None, None], axis=1)[:, 0]

        losses = cross_entropy(upper, super_class) + cross_entropy(lower, cluster)
        loss = jnp.mean(extra["weights"][owners[:, 0], cluster] * losses)
        metrics = {
            "super_accuracy": jnp.mean(upper.argmax(-1) == super_class),
            "accuracy": jnp.mean(lower.argmax(-1) == cluster),
            "clusters": jnp.sum(extra["weights"] > 0),
        }
        return loss, Aux(dict(extra, stats=nets.stats), metrics=metrics)

    def rotations(self, key: Array, index: Array) -> Array:
        """Draw the rotations (B, count) of the views, in quarter turns."""
        draw = lambda k: jax.random.randint(k, (self.view.count,), 0, self.angles)  # noqa: E731
        return jax.vmap(draw)(rng.per_example(key, index))

    def turned(self, images: Array, rotations: Array) -> Array:
        """Rotate each image (N, H, W, C) counter-clockwise by its number of quarter turns (N,)."""
        return jax.vmap(geometric.rotate90)(images, rotations) if self.rotate else images

    def logits(self, nets: Bound, features: Array) -> tuple[Array, Array]:
        """Return the logits (N, G) of the super-classes, and (N, G, K) of the clusters of each."""
        features = jax.nn.relu(features)
        lower = nets.classifiers(features)
        lower = lower.reshape(len(features), self.super_classes, self.per_super_cluster)
        return nets.super_classifier(features), lower

    def encoder(self, params: Tree, extra: Tree) -> Encoder:
        after = {name: params[name] for name in ("super_classifier", "classifiers")}
        return replace(super().encoder(params, extra), clusters=Heads(after, self._score))

    def _score(self, params: Tree, pooled: Array) -> Sequence[Array]:
        """Compute the log-probabilities of the clusters of upright images, over both levels."""
        joint = self.joint(self.networks.bind(params, {}, train=False), pooled)
        return [joint[:, :: self.angles].reshape(len(pooled), -1)]

    def joint(self, nets: Bound, features: Array) -> Array:
        """Compute log P(super-class) P(cluster | super-class), (N, G, K)."""
        upper, lower = self.logits(nets, features)
        return jax.nn.log_softmax(upper)[..., None] + jax.nn.log_softmax(lower)

    def refresh_steps(self) -> Collection[int]:
        every = max(round(self.epochs * self.spec.steps_per_epoch), 1)
        return range(0, self.spec.total_steps, every)

    def refresh(
        self, params: Tree, extra: Tree, features: DataPass | None, key: Array, step: Array
    ) -> tuple[Tree, Tree]:
        assert features is not None
        whitened = pca_whiten(*features, self.whitened or self.feature_dim)
        labels, weights = self.cluster(l2_normalize(whitened), features.present, key)
        heads, _ = self.networks.only("super_classifier", "classifiers").init(
            rng.named(key, "classifiers")
        )
        heads = tree.cast_like(heads, {name: params[name] for name in heads})
        weights = weights.astype(extra["weights"].dtype)
        return {**params, **heads}, dict(extra, assignments=labels, weights=weights)

    def cluster(self, points: Array, present: Array, key: Array) -> tuple[Array, Array]:
        """Cluster points (R, d) twice: super-cluster and cluster (R, 2), and weights by both."""
        widths = self.super_clusters, self.per_super_cluster
        upper, lower, counts = two_level_kmeans(
            points, present, *widths, key, iterations=self.iterations, empty="halve"
        )
        # Uniform over the super-clusters, and over the clusters of each.
        nonempty = counts > 0
        shares = jnp.sum(jnp.any(nonempty, axis=1)) * jnp.sum(nonempty, axis=1, keepdims=True)
        weights = jnp.sum(present) / (jnp.maximum(shares, 1) * jnp.maximum(counts, 1))
        return jnp.stack([upper, lower], axis=1), jnp.where(nonempty, weights, 0)


make = DeeperCluster.make
