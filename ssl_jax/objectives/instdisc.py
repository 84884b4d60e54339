"""InstDisc: unsupervised feature learning by instance discrimination (1805.01978)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core import rng
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import BelowOne, Count, Positive, Whole
from ssl_jax.losses.nce import estimate_partition, nce
from ssl_jax.losses.nonparametric_softmax import nonparametric_softmax
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Objective, View
from ssl_jax.objectives.parts import memory
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.views import fold

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class InstDisc(Objective):
    """Each image is a class of its own, whose vector is an average of its past embeddings.

    Attributes:
      view: crop and augmentation (count 1).
      projector: widths of the head's layers; the paper has one layer, without batch norm.
      negatives: number of images drawn as noise for each image (NCE); 0 uses the softmax over all.
      temperature: temperature of the softmax.
      momentum: momentum of the vectors in the memory.

    Raises:
      UserError: a view of several crops, or fewer images than negatives.
    """

    family: ClassVar[str] = "contrastive"
    needs: ClassVar[str] = "a memory of one vector per image"

    view: OneCrop = View(224, area=(0.2, 1.0), recipe="instdisc")
    projector: tuple[Count, ...] = (128,)
    negatives: Whole = 4096
    temperature: Positive = 0.07
    momentum: BelowOne = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        memory.check_negatives(self.negatives, self.spec.num_examples)

    @cached_property
    def networks(self) -> Networks:
        head = mlp_head(self.feature_dim, self.projector)
        return self.backbone_and(projector=head)

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.networks.init(key)
        bank = memory.uniform(rng.named(key, "memory"), self.spec.num_examples, self.projector[-1])
        # The partition constant is estimated from the first batch and then stays; 0 until then.
        return params, {"stats": stats, "memory": bank, "partition": jnp.zeros((), jnp.float32)}

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        bank, index, partition = extra["memory"], batch["index"], extra["partition"]
        features, stats = self.embed(params, extra, batch)
        count = self.spec.num_examples
        if self.negatives:
            scores = self.candidate_scores(features, bank, index, key)
            estimate = estimate_partition(scores, count).astype(partition.dtype)
            partition = jnp.where(partition > 0, partition, estimate)
            loss = nce(scores - jnp.log(partition), 1 / count)
        else:
            real = memory.present(count)
            loss = nonparametric_softmax(features, bank, index, self.temperature, real)
        extra = dict(extra, stats=stats, partition=partition)
        return loss, Aux(extra, signals={"features": features, "index": index})

    def embed(self, params: Tree, extra: Tree, batch: Mapping[str, Any]) -> tuple[Array, Tree]:
        """Return unit vectors (B, d) and the new statistics."""
        nets = self.networks.bind(params, extra["stats"])
        features = nets.backbone(fold(batch["views"][0])).pooled
        return l2_normalize(nets.projector(features)), nets.stats

    def candidate_scores(self, features: Array, bank: Array, index: Array, key: Array) -> Array:
        """Compute cosines by the temperature, (B, 1 + m), with an image's own row of the memory,
        then with those of its noise.
        """
        keys = rng.per_example(key, index)
        rows = memory.candidates(keys, index, self.negatives, self.spec.num_examples)
        return memory.similarities(features, bank, rows) / self.temperature

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        index, features = signals["index"], signals["features"]
        bank = memory.average(extra["memory"], index, features, self.momentum)
        return params, dict(extra, memory=bank)


make = InstDisc.make
