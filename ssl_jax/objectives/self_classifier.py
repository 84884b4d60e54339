"""Self-Classifier: self-supervised classification network (2103.10994)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, Positive, Several, Whole
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.losses.self_classifier import self_classifier
from ssl_jax.nets.functional import Net, init_all
from ssl_jax.nets.heads import mlp_head, prototype_head
from ssl_jax.objectives.base import Aux, Encoder, Heads, Objective, View
from ssl_jax.objectives.parts import queue
from ssl_jax.objectives.parts.multicrop import leading_groups, multicrop
from ssl_jax.objectives.parts.networks import Networks

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class SelfClassifier(Objective):
    """Views of an image are assigned the same class and all classes are used: representation and
    labels are learned together in one stage.

    Attributes:
      views: groups of crops, the large ones first.
      large: number of large crops.
      projector: widths of the head.
      classes: number of classes of each classifier; the loss is the mean over classifiers.
      row_temperature, column_temperature: see `losses.self_classifier`.
      queue_size: number of earlier embeddings of first crops; the first crop is replaced by its
        nearest neighbour among them from another image. A multiple of the batch, 0 for none.
    """

    family: ClassVar[str] = "clustering"
    needs: ClassVar[str] = "a global batch about as large as the classes"
    least_batch: ClassVar[int] = 2

    views: tuple[View, ...] = (
        View(224, area=(0.4, 1.0), recipe="self_classifier_1", interpolation="bicubic"),
        View(224, area=(0.4, 1.0), recipe="self_classifier_2", interpolation="bicubic"),
        View(96, 6, (0.05, 0.4), "dino_local", interpolation="bicubic"),
    )
    large: Count = 2
    projector: tuple[Count, ...] = (4096, 128)
    classes: tuple[Several, ...] = (1000, 2000, 4000, 8000)
    row_temperature: Positive = 0.1
    column_temperature: Positive = 0.05
    queue_size: Whole = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        leading_groups(self.views, self.large)
        if not self.classes or max(self.classes) > self.spec.num_examples:
            raise UserError(
                f"objective.classes: expected one or more numbers, none above the "
                f"{self.spec.num_examples} examples, got {self.classes}"
            )

    @cached_property
    def networks(self) -> Networks:
        head = mlp_head(
            self.feature_dim, self.projector, init="normal0.02", activation="leaky_relu"
        )
        return self.backbone_and(projector=head)

    @cached_property
    def classifiers(self) -> dict[str, Net]:
        dim = self.projector[-1]
        return {f"classifier{i}": prototype_head(dim, n) for i, n in enumerate(self.classes, 1)}

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, extra = super().init(key)
        params |= init_all(key, **self.classifiers)[0]
        if self.queue_size:
            dim, queue_key = self.projector[-1], rng.named(key, "queue")
            extra["queue"] = queue.init(queue_key, self.queue_size, dim, self.spec)
            # The example of each embedding; -1 for none yet.
            shape = extra["queue"]["keys"].shape[:2]
            extra["queue"]["index"] = jnp.full(shape, -1, jnp.int32)
        return params, extra

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        nets = self.networks.bind(params, extra["stats"])
        z = l2_normalize(nets.projector(multicrop(nets.backbone, batch["views"])))  # (B, V, D)
        first = z[:, 0]
        if self.queue_size:
            z = z.at[:, 0].set(self.neighbours(extra["queue"], first, batch["index"], step))
        losses = []
        for name, net in self.classifiers.items():
            logits, _ = net.apply(params[name], {}, z, train=True)
            losses.append(
                self_classifier(
                    logits,
                    self.large,
                    row_temperature=self.row_temperature,
                    column_temperature=self.column_temperature,
                )
            )
        signals = {"first": first, "index": batch["index"]} if self.queue_size else {}
        return jnp.mean(jnp.stack(losses)), Aux(dict(extra, stats=nets.stats), signals)

    def encoder(self, params: Tree, extra: Tree) -> Encoder:
        after = {name: params[name] for name in ("projector", *self.classifiers)}
        stats = {"projector": extra["stats"]["projector"]}
        heads = Heads({"params": after, "stats": stats}, self._score)
        return replace(super().encoder(params, extra), clusters=heads)

    def _score(self, after: Tree, pooled: Array) -> Sequence[Array]:
        params = after["params"]
        projector = self.networks.bind(params, after["stats"], train=False).projector
        z = l2_normalize(projector(pooled))
        nets = self.classifiers.items()
        return [net.apply(params[name], {}, z, train=False)[0] for name, net in nets]

    def neighbours(self, queued: Tree, first: Array, index: Array, step: Array) -> Array:
        """Return the queue's nearest embedding of another image for each of `first` (B, D), without
        gradient; `first` itself until the queue is full.
        """
        keys = queue.keys(queued)
        similarity = jax.lax.stop_gradient(first) @ keys.T
        own = index[:, None] == queued["index"].reshape(-1)
        nearest = keys[jnp.argmax(jnp.where(own, -jnp.inf, similarity), axis=1)]
        return jnp.where(step >= queued["index"].shape[1], nearest, first)

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        if self.queue_size:
            old = extra["queue"]
            index = jax.lax.dynamic_update_index_in_dim(
                old["index"], signals["index"], old["next"], axis=1
            )
            extra = dict(extra, queue=queue.push(old, signals["first"]) | {"index": index})
        return params, extra


make = SelfClassifier.make
