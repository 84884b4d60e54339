"""DeepCluster-v2: DeepCluster with SwAV's crops and a memory of embeddings (2006.09882)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core import rng
from ssl_jax.core.ranges import Count, Positive, Several
from ssl_jax.core.sharding import padded_rows
from ssl_jax.losses.cross_entropy import cross_entropy
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, DataPass, Encoder, Heads, Objective, View
from ssl_jax.objectives.parts import memory
from ssl_jax.objectives.parts.kmeans import kmeans
from ssl_jax.objectives.parts.multicrop import leading_groups, multicrop
from ssl_jax.objectives.parts.networks import Networks

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class DeepClusterV2(Objective):
    """Every crop predicts the cluster of its image, with the centroids as the classifier.

    The embeddings of the large crops are stored during training, and once per epoch they are
    clustered on the sphere, once per head. So the only pass over the data set is the first, which
    fills the memory (with the embedding of the whole image for each large crop), and no classifier
    has to restart. An image that an epoch leaves out keeps its last embedding.

    Attributes:
      views: groups of crops, the large ones first.
      remembered: number of large crops; head h clusters those of crop h mod this number.
      projector: widths of the head.
      clusters: k of each head.
      heads: number of clusterings.
      temperature: temperature of the predictions.
      iterations: iterations of k-means.
      epochs: epochs between two clusterings.
    """

    family: ClassVar[str] = "clustering"
    needs: ClassVar[str] = "a memory of one vector per large crop and image"

    views: tuple[View, ...] = (
        View(224, 2, (0.14, 1.0), "swav"),
        View(96, 6, (0.05, 0.14), "swav"),
    )
    remembered: Count = 2
    projector: tuple[Count, ...] = (2048, 128)
    clusters: Several = 3000
    heads: Count = 3
    temperature: Positive = 0.1
    iterations: Count = 10
    epochs: Positive = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        leading_groups(self.views, self.remembered)
        memory.check_clusters("deepcluster_v2", self.clusters, self.spec.num_examples)

    @cached_property
    def networks(self) -> Networks:
        head = mlp_head(self.feature_dim, self.projector, hidden_bias=True, init="torch")
        return self.backbone_and(projector=head)

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.networks.init(key)
        count, dim = self.spec.num_examples, self.projector[-1]
        keys = jax.random.split(rng.named(key, "labels"), self.heads)
        labels = [memory.balanced_labels(k, count, self.clusters) for k in keys]
        random_prototypes = jax.random.normal(
            rng.named(key, "prototypes"), (self.heads, self.clusters, dim), jnp.float32
        )
        return params, {
            "stats": stats,
            "memory": jnp.zeros((padded_rows(count), self.remembered, dim), jnp.float32),
            "assignments": jnp.stack(labels, axis=1),
            "prototypes": l2_normalize(random_prototypes),
        }

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        nets = self.networks.bind(params, extra["stats"])
        z = l2_normalize(nets.projector(multicrop(nets.backbone, batch["views"])))  # (B, V, D)
        logits = jnp.einsum("bvd,hkd->bvhk", z, extra["prototypes"], precision="highest")
        labels = jnp.broadcast_to(extra["assignments"][batch["index"]][:, None], logits.shape[:3])
        loss = jnp.mean(cross_entropy(logits / self.temperature, labels))
        metrics = {"accuracy": jnp.mean(logits.argmax(-1) == labels)}
        signals = {"embeddings": z[:, : self.remembered], "index": batch["index"]}
        return loss, Aux(dict(extra, stats=nets.stats), signals, metrics)

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        bank = memory.write(extra["memory"], signals["index"], signals["embeddings"])
        return params, dict(extra, memory=bank)

    def encoder(self, params: Tree, extra: Tree) -> Encoder:
        after = {"projector": params["projector"], "prototypes": extra["prototypes"]}
        stats = {"projector": extra["stats"]["projector"]}
        heads = Heads({"params": after, "stats": stats}, self._score)
        return replace(super().encoder(params, extra), clusters=heads)

    def _score(self, after: Tree, pooled: Array) -> Sequence[Array]:
        nets = self.networks.bind(after["params"], after["stats"], train=False)
        z = l2_normalize(nets.projector(pooled))
        return list(jnp.einsum("bd,hkd->hbk", z, after["params"]["prototypes"]))

    def refresh_steps(self) -> Collection[int]:
        every = max(round(self.epochs * self.spec.steps_per_epoch), 1)
        return range(0, self.spec.total_steps, every)

    def pass_steps(self) -> Collection[int]:
        return (0,)

    def record(self, params: Tree, extra: Tree, images: Array) -> Array:
        nets = self.networks.bind(params, extra["stats"], train=False)
        return l2_normalize(nets.projector(nets.backbone(images).pooled))

    def refresh(
        self, params: Tree, extra: Tree, features: DataPass | None, key: Array, step: Array
    ) -> tuple[Tree, Tree]:
        bank, present = extra["memory"], memory.present(self.spec.num_examples)
        if features is not None:
            bank = jnp.repeat(features.values[:, None], self.remembered, axis=1).astype(bank.dtype)
        present = present & jnp.any(bank != 0, axis=(1, 2))  # not the rows of corrupt images
        clusterings = [
            kmeans(
                bank[:, h % self.remembered],
                present,
                self.clusters,
                jax.random.fold_in(key, h),
                iterations=self.iterations,
                spherical=True,
                empty="keep",
            )
            for h in range(self.heads)
        ]
        labels = jnp.stack([f.assignments for f in clusterings], axis=1)
        prototypes = jnp.stack([f.centroids for f in clusterings]).astype(extra["prototypes"].dtype)
        return params, dict(extra, memory=bank, assignments=labels, prototypes=prototypes)


make = DeepClusterV2.make
