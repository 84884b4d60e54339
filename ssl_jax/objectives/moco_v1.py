"""MoCo v1: momentum contrast for unsupervised visual representation learning (1911.05722)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core import rng, sharding, tree
from ssl_jax.core.inputs import TwoCrops
from ssl_jax.core.ranges import Count, Positive, Probability
from ssl_jax.losses.infonce import infonce
from ssl_jax.losses.large_batch.similarity import Similarity
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Objective, View
from ssl_jax.objectives.parts import queue
from ssl_jax.objectives.parts.networks import Bound, Networks

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class MoCoV1(Objective):
    """Each query is matched to its key, computed by a slow average of the encoder, among a queue of
    old keys.

    Attributes:
      view: crops and augmentation of the query and of the key (count 2).
      projector: widths of the head's layers, without batch norm.
      temperature: temperature of the softmax over similarities.
      queue_size: number of old keys; a multiple of the global batch, at most the data set.
      momentum: momentum of the key encoder's average.
      bn_groups: number of parts of the batch, each normalised by itself in batch norm. The keys are
        encoded in a random order, so that a key's statistics do not reveal its query (shuffled BN,
        section 3.3; the released code has 8, one per GPU). 1 uses the whole batch, unshuffled.
      similarity: whether the loss holds the similarities of queries and queue; see
        `losses.large_batch.similarity`.
    """

    family: ClassVar[str] = "contrastive"

    view: TwoCrops = View(224, count=2, area=(0.2, 1.0), recipe="moco_v1")
    projector: tuple[Count, ...] = (128,)
    temperature: Positive = 0.07
    queue_size: Count = 65536
    momentum: Probability = 0.999
    bn_groups: Count = 1
    similarity: Similarity = "auto"

    @cached_property
    def networks(self) -> Networks:
        head = mlp_head(self.feature_dim, self.projector, norm=None, init="torch")
        return replace(self.backbone_and(projector=head), bn_groups=self.bn_groups)

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.networks.init(key)
        return params, {
            "stats": stats,
            "key_encoder": params,  # starts as a copy
            "key_stats": stats,
            "queue": queue.init(
                rng.named(key, "queue"), self.queue_size, self.projector[-1], self.spec
            ),
        }

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        views = batch["views"][0]
        nets = self.networks.bind(params, extra["stats"])
        queries = self.encode(nets, views[:, 0])["projector"]
        example_keys = rng.per_example(key, batch["index"])
        encoded, key_stats = self.encode_keys(extra, views[:, 1], example_keys)
        keys = l2_normalize(encoded["projector"], floor="norm")
        negatives = jax.lax.stop_gradient(queue.keys(extra["queue"]))
        extra = dict(extra, stats=nets.stats, key_stats=key_stats)
        return self.contrast(queries, keys, negatives), Aux(extra, signals={"keys": keys})

    def contrast(self, queries: Array, keys: Array, negatives: Array) -> Array:
        """Compute the scalar loss of queries (B, d), their keys (B, d), of unit length and without
        gradient, and the queue (K, d).
        """
        rows = infonce(queries, keys, self.temperature, negatives, similarity=self.similarity)
        return jnp.mean(rows)

    def encode(self, nets: Bound, images: Array) -> dict[str, Any]:
        """Compute the outputs of all networks by name for a view (B, H, W, C)."""
        features = nets.backbone(images)
        return {"backbone": features, "projector": nets.projector(features.pooled)}

    def encode_keys(self, extra: Tree, images: Array, example_keys: Array) -> tuple[Tree, Tree]:
        """Return the key encoder's `encode`, without gradient, and its new statistics."""
        nets = self.networks.bind(extra["key_encoder"], extra["key_stats"])
        if self.bn_groups == 1:
            return self.encode(nets, images), nets.stats
        # Sorting random numbers gives a random order.
        order = jnp.argsort(jax.vmap(jax.random.uniform)(example_keys))
        shuffled = self.encode(nets, sharding.split_rows(images[order]))
        restore = jnp.argsort(order)
        return jax.tree.map(lambda x: x[restore], shuffled), nets.stats

    def teacher(self, params: Tree, extra: Tree) -> tuple[Tree, Tree] | None:
        return extra["key_encoder"], extra["key_stats"]

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        # Averaging here equals averaging before the next keys, as released. Batch statistics are
        # not averaged.
        encoder = tree.ema(extra["key_encoder"], params, self.momentum)
        pushed = queue.push(extra["queue"], signals["keys"])
        return params, dict(extra, key_encoder=encoder, queue=pushed)


make = MoCoV1.make
