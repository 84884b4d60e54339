"""CMC: contrastive multiview coding (1906.05849)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp

from ssl_jax.core import config, rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import BelowOne, Count, Positive, Whole
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.nets.functional import Net
from ssl_jax.nets.heads import mlp_head
from ssl_jax.nets.split import Split
from ssl_jax.objectives.base import Aux, Objective, Spec, View
from ssl_jax.objectives.parts import memory
from ssl_jax.objectives.parts.networks import Networks

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class CMC(Objective):
    """The colours of an image are told apart from those of others by its brightness, and the
    reverse: groups of channels are the views, each with its own network and memory. The features
    of all networks, concatenated, are the representation.

    Attributes:
      view: crop and augmentation (count 1); its chain converts to a colour space.
      channels: channels of each view: L and ab. More views, such as (1, 1, 1), are possible.
      graph: "full" contrasts all pairs of views, "core" the first view with each other one
        (sections 3.3 and 3.4).
      width: factor of the configured backbone's widths in each view's network; two of 0.5 have
        about half the weights of one of 1.
      projector: widths of each head's layers.
      criterion: "nce" (1805.01978) or "softmax" over the same candidates.
      negatives: number of images drawn for each image; 0 uses the softmax over all.
      temperature: temperature of the scores.
      momentum: momentum of the vectors in the memories.

    Raises:
      UserError: images with other channels than the views', one view only, or fewer images than
        negatives.
    """

    family: ClassVar[str] = "contrastive"
    needs: ClassVar[str] = "colour images; a memory of one vector per image and view"

    view: OneCrop = View(224, area=(0.08, 1.0), recipe="cmc")
    channels: tuple[Count, ...] = (1, 2)
    graph: Literal["full", "core"] = "full"
    width: Positive = 0.5
    projector: tuple[Count, ...] = (128,)
    criterion: memory.Criterion = "nce"
    negatives: Whole = 16384
    temperature: Positive = 0.07
    momentum: BelowOne = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.channels) < 2:
            raise UserError(
                f"objective.channels: expected two views or more, got {self.channels}; set (1, 2)"
            )
        if sum(self.channels) != self.spec.channels:
            raise UserError(
                f"objective.channels: views of {self.channels} channels need images of "
                f"{sum(self.channels)}, and the data have {self.spec.channels}; use colour images"
            )
        memory.check_negatives(self.negatives, self.spec.num_examples)

    @classmethod
    def make(cls, backbone: Net, spec: Spec, **hyper: Any) -> Self:
        """Build the method; its backbone is one scaled copy of `backbone` per view."""
        made = config.build(cls, hyper, "objective", backbone=backbone, spec=spec)
        part = backbone.like(scale=made.width).config
        return made.with_backbone(Split(part, made.channels).net(spec.channels))

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """Ordered pairs of views: the first looks for its image in the second's memory."""
        count = len(self.channels)
        every = [(u, v) for u in range(count) for v in range(count) if u != v]
        return every if self.graph == "full" else [(u, v) for u, v in every if 0 in (u, v)]

    @cached_property
    def networks(self) -> Networks:
        dim = self.feature_dim // len(self.channels)
        heads = {f"projector{i}": mlp_head(dim, self.projector) for i in self._names}
        return self.backbone_and(**heads)

    @property
    def _names(self) -> range:
        return range(1, len(self.channels) + 1)

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.networks.init(key)
        size = (self.spec.num_examples, self.projector[-1])
        banks = {
            f"view{i}": memory.uniform(rng.named(key, f"memory{i}"), *size) for i in self._names
        }
        # One constant per pair, estimated from the first batch; 0 until then.
        partitions = jnp.zeros((len(self.pairs),), jnp.float32)
        return params, {"stats": stats, "memory": banks, "partition": partitions}

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        index = batch["index"]
        nets = self.networks.bind(params, extra["stats"])
        pooled = nets.backbone(batch["views"][0][:, 0]).pooled
        parts = jnp.split(pooled, len(self.channels), axis=-1)
        heads = (getattr(nets, f"projector{i}") for i in self._names)
        features = [l2_normalize(head(part)) for head, part in zip(heads, parts, strict=True)]
        banks = [extra["memory"][f"view{i}"] for i in self._names]
        rows = self.candidates(key, index)
        losses, partitions = [], []
        for (u, v), partition in zip(self.pairs, extra["partition"], strict=True):
            loss, partition = self.contrast(features[u], banks[v], index, rows, partition)
            losses.append(loss)
            partitions.append(partition)
        extra = dict(extra, stats=nets.stats, partition=jnp.stack(partitions))
        return sum(losses[1:], losses[0]), Aux(extra, {"features": features, "index": index})

    def candidates(self, key: Array, index: Array) -> Array | None:
        """Draw the images (B, 1 + negatives) that all pairs compare with, first the right ones."""
        if not self.negatives:
            return None
        keys = rng.per_example(key, index)
        return memory.candidates(keys, index, self.negatives, self.spec.num_examples)

    def contrast(
        self, features: Array, bank: Array, index: Array, rows: Array | None, partition: Array
    ) -> tuple[Array, Array]:
        """Contrast one view's features with the memory of another; see `parts.memory.contrast`."""
        return memory.contrast(
            features,
            bank,
            index,
            rows,
            partition,
            count=self.spec.num_examples,
            temperature=self.temperature,
            criterion=self.criterion,
        )

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        banks = {
            name: memory.average(bank, signals["index"], features, self.momentum)
            for (name, bank), features in zip(
                sorted(extra["memory"].items()), signals["features"], strict=True
            )
        }
        return params, dict(extra, memory=banks)


make = CMC.make
