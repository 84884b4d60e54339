"""Representation learning by learning to count (1708.06734)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.augment.patches import tiles
from ssl_jax.augment.resize import halve
from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import Count, Positive
from ssl_jax.losses.counting import counting
from ssl_jax.nets.functional import output_shapes
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Objective, Picture, Probe, View
from ssl_jax.objectives.parts.networks import Bound, Networks
from ssl_jax.objectives.parts.pictures import ROWS
from ssl_jax.objectives.parts.views import fold, unfold

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class Counting(Objective):
    """The network counts: what it counts in an image, down-sampled by 2, is the sum of what it
    counts in the image's four quarters, and not what it counts in another image.

    Attributes:
      view: crop and augmentation (count 1); grey images hide chromatic aberration.
      counts: number of things that are counted, never negative.
      hidden: widths of the head's hidden layers.
      margin: squared distance that the counts of another image should have.

    Raises:
      UserError: a view that has no halves, or more than one crop per image.
    """

    family: ClassVar[str] = "pretext"
    needs: ClassVar[str] = "images twice as large as the network's input"
    least_batch: ClassVar[int] = 2

    # The last stage specialises in counts; the stage before it transfers better.
    probe: ClassVar[Probe] = Probe(stage=-2, pool="grid")

    view: OneCrop = View(228, area=(0.7, 1.0), recipe="patches")
    counts: Count = 1000
    hidden: tuple[Count, ...] = (4096, 4096)
    margin: Positive = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        height, width = self.view.sides
        if height % 2 or width % 2:
            raise UserError(
                f"objective.view.size: {height} x {width} px have no halves; use even sides"
            )

    @cached_property
    def networks(self) -> Networks:
        height, width = (side // 2 for side in self.view.sides)
        shapes = output_shapes(self.backbone, (height, width, self.spec.channels))
        return self.backbone_and(head=mlp_head(shapes.pooled.shape[0], (*self.hidden, self.counts)))

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images = batch["views"][0][:, 0]
        nets = self.networks.bind(params, extra["stats"])
        counts = self.count(nets, self.parts(rng.per_example(key, batch["index"]), images))
        whole, quarters = counts[:, 0], counts[:, 1:]
        loss = counting(whole, quarters, jnp.roll(whole, 1, axis=0), self.margin)
        metrics = {"counted": jnp.mean(jnp.sum(whole, axis=-1))}
        return loss, Aux({"stats": nets.stats}, metrics=metrics)

    def parts(self, keys: Array, images: Array) -> Array:
        """Return the down-sampled image and its quarters, row by row: (B, 5, H / 2, W / 2, C)."""
        whole = jax.vmap(halve)(keys, images)
        return jnp.concatenate([whole[:, None], tiles(images, 2, 2)], axis=1)

    def count(self, nets: Bound, parts: Array) -> Array:
        """Count in (B, n, h, w, C); (B, n, counts). All parts are in one batch for batch norm,
        whose statistics would otherwise tell quarters from whole images.
        """
        counts = jax.nn.relu(nets.head(nets.backbone(fold(parts)).pooled))
        return unfold(counts, parts.shape[1])

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        nets = self.networks.bind(params, extra["stats"], train=False)
        parts = self.parts(rng.per_example(key, jnp.arange(len(images))), images)
        counts = jnp.linalg.norm(self.count(nets, parts[:, :1])[:, 0], axis=-1)
        order = jnp.argsort(counts)
        rows = jnp.stack([images[order[:ROWS]], images[order[::-1][:ROWS]]])
        caption = (
            f"Of {len(images)} images, those with the smallest (first row) and the largest norm "
            "of the counts: little and much to count."
        )
        return {"Counted features": Picture(rows, caption)}


make = Counting.make
