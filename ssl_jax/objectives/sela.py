"""SeLa: self-labelling via simultaneous clustering and representation learning (1911.05371)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.augment import geometric
from ssl_jax.core import rng
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import Count, NonNegative, Positive, Several
from ssl_jax.losses.cross_entropy import cross_entropy
from ssl_jax.losses.sinkhorn import sinkhorn
from ssl_jax.nets.functional import Net
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, DataPass, Encoder, Heads, Objective, View
from ssl_jax.objectives.parts import memory
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.views import fold

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class SeLa(Objective):
    """Alternates between labelling all images with the classifiers, balanced over the labels, and
    learning to predict these labels.

    The labelling pass sees a central crop of each image, without augmentation and with the running
    batch statistics; that of the authors sees one augmented crop in training mode.

    Attributes:
      view: crop and augmentation (count 1).
      clusters: labels per head.
      heads: number of classifiers on the same features, each with its own labels.
      power: lambda; the larger, the nearer to the optimal balanced labelling.
      tolerance: Sinkhorn-Knopp stops below this sum over all images of their relative change.
      iterations: maximum number of iterations.
      labellings: number of times that the images are labelled.
      spacing: labelling i is before step `total (i / labellings)^spacing`: 2 is dense early.
      rotations: also learn to predict rotations by 90 degrees, with a separate head: the paper's
        "+ Rot", there a second training with the labels of the first. Labels are learned on the
        upright copy.
    """

    family: ClassVar[str] = "clustering"
    needs: ClassVar[str] = "passes over the data set"

    view: OneCrop = View(224, area=(0.08, 1.0), recipe="instdisc")
    clusters: Several = 3000
    heads: Count = 10
    power: Positive = 25.0
    tolerance: NonNegative = 0.1
    iterations: Count = 2000
    labellings: Count = 100
    spacing: Positive = 2.0
    rotations: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        memory.check_clusters("sela", self.clusters, self.spec.num_examples)
        if self.rotations:
            self.view.check_square()

    @cached_property
    def classifiers(self) -> Net:
        """All heads side by side; the last four outputs are the rotations'."""
        return mlp_head(
            self.feature_dim, (self.heads * self.clusters + 4 * self.rotations,), init="normal0.01"
        )

    @cached_property
    def networks(self) -> Networks:
        return self.backbone_and(classifiers=self.classifiers)

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.networks.init(key)
        keys = jax.random.split(rng.named(key, "labels"), self.heads)
        count = self.spec.num_examples
        labels = [memory.balanced_labels(k, count, self.clusters) for k in keys]
        return params, {"stats": stats, "assignments": jnp.stack(labels, axis=1)}

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images, turns = fold(batch["views"][0]), 4 if self.rotations else 1
        turned = fold(geometric.rotations(images, turns))
        nets = self.networks.bind(params, extra["stats"])
        outputs = nets.classifiers(nets.backbone(turned).pooled)
        logits = outputs[::turns, : self.heads * self.clusters]
        logits = logits.reshape(-1, self.heads, self.clusters)
        labels = extra["assignments"][batch["index"]]
        loss = jnp.mean(cross_entropy(logits, labels))
        if self.rotations:
            answers = jnp.tile(jnp.arange(4), len(images))
            loss += jnp.mean(cross_entropy(outputs[:, -4:], answers))
        metrics = {"accuracy": jnp.mean(logits.argmax(-1) == labels)}
        return loss, Aux(dict(extra, stats=nets.stats), metrics=metrics)

    def encoder(self, params: Tree, extra: Tree) -> Encoder:
        heads = Heads(params["classifiers"], self._score)
        return replace(super().encoder(params, extra), clusters=heads)

    def _score(self, params: Tree, pooled: Array) -> Sequence[Array]:
        outputs, _ = self.classifiers.apply(params, {}, pooled, train=False)
        used = outputs[:, : self.heads * self.clusters]
        return jnp.split(used, self.heads, axis=1)

    def refresh_steps(self) -> Collection[int]:
        shares = (i / self.labellings for i in range(self.labellings))
        return {round(self.spec.total_steps * share**self.spacing) for share in shares}

    def refresh(
        self, params: Tree, extra: Tree, features: DataPass | None, key: Array, step: Array
    ) -> tuple[Tree, Tree]:
        assert features is not None
        layer, used = params["classifiers"]["linear1"], self.heads * self.clusters
        kernels = layer["kernel"][:, :used].reshape(-1, self.heads, self.clusters)
        biases = layer["bias"][:used].reshape(self.heads, self.clusters)

        def label(head: tuple[Array, Array]) -> Array:
            logits = jnp.matmul(features.values, head[0], precision="highest") + head[1]
            balanced = sinkhorn(
                jax.nn.log_softmax(logits),
                1 / self.power,
                self.iterations,
                tolerance=self.tolerance,
                valid=features.present,
            )
            return balanced.argmax(-1).astype(jnp.int32)

        # One head at a time: its arrays (examples x labels) are the largest.
        labels = jax.lax.map(label, (kernels.swapaxes(0, 1), biases))
        return params, dict(extra, assignments=labels.T)


make = SeLa.make
