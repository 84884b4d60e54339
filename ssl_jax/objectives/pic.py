"""PIC: parametric instance classification (2006.14618)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Inputs, Window
from ssl_jax.core.ranges import Count, Positive, Whole
from ssl_jax.core.sharding import padded_rows
from ssl_jax.losses.large_batch.similarity import log_sum_exp
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Objective, View
from ssl_jax.objectives.parts import memory
from ssl_jax.objectives.parts.multicrop import multicrop
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.views import fold

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class PIC(Objective):
    """A classifier with one class per image: cosines with trained vectors, one row per image, split
    over all devices.

    The optimizer moves every row at every step, by decay and momentum also those whose image has
    not come for long: what the paper's weight update correction makes up for in rows that it had
    left out.

    Attributes:
      views: groups of crops: the first, large, trains the class vectors; for the others, small,
        they are constant.
      projector: widths of the head's layers, without batch norm.
      temperature: temperature of the softmax.
      window: images per pass of the sliding window, which shows each image `window / stride` times
        in succession; 0 shows all images each epoch.
      stride: images by which the window moves after each pass.
      reshuffle: shuffle the data set anew before a pass that goes beyond its end.
      recent: number of most recent images whose classes are the negatives; 0 for all classes, as
        released.

    Raises:
      UserError: a window, stride or number of recent images that does not fit the data.
    """

    family: ClassVar[str] = "contrastive"
    needs: ClassVar[str] = "memory for one vector per image and its momentum"

    views: tuple[View, ...] = (
        View(160, area=(0.14, 1.0), recipe="simclr"),
        View(96, 3, (0.08, 0.14), "simclr"),
    )
    projector: tuple[Count, ...] = (2048, 128)
    temperature: Positive = 0.2
    window: Whole = 131072
    stride: Count = 16384
    reshuffle: bool = True
    recent: Whole = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        count, batch = self.spec.num_examples, self.spec.global_batch
        if self.window and not batch <= self.window <= count:
            raise UserError(
                f"objective.window: expected {batch} (a batch) to {count} (the data set), or 0 for "
                f"none, got {self.window}"
            )
        if self.window and self.stride > self.window:
            raise UserError(
                f"objective.stride: {self.stride} would leave images out; use at most the window, "
                f"{self.window}"
            )
        if self.recent and not batch <= self.recent <= count:
            raise UserError(
                f"objective.recent: expected {batch} (a batch) to {count} (the data set), or 0 for "
                f"all classes, got {self.recent}"
            )

    def unused(self) -> Mapping[str, str]:
        """See `core.config.check_used`."""
        why = "there is no window; set objective.window"
        return {} if self.window else {"stride": why, "reshuffle": why}

    def inputs(self) -> Inputs:
        window = Window(self.window, self.stride, self.reshuffle) if self.window else None
        return Inputs(views=self.views, window=window)

    @cached_property
    def networks(self) -> Networks:
        return self.backbone_and(projector=mlp_head(self.feature_dim, self.projector, norm=None))

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.networks.init(key)
        shape = padded_rows(self.spec.num_examples), self.projector[-1]
        classes = 0.01 * jax.random.normal(rng.named(key, "classes"), shape, jnp.float32)
        extra = {"stats": stats}
        if self.recent:
            # The step of each image's last visit; long ago at the start.
            extra["assignments"] = jnp.full(shape[:1], -self.recent, jnp.int32)
        return params | {"memory": classes}, extra

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        index = batch["index"]
        nets = self.networks.bind(params, extra["stats"])
        features = l2_normalize(nets.projector(multicrop(nets.backbone, batch["views"])))
        large, small = jnp.split(features, [self.views[0].count], axis=1)
        classes = l2_normalize(params["memory"])
        present = memory.present(self.spec.num_examples)
        extra = dict(extra, stats=nets.stats)
        if self.recent:
            visits = memory.write(extra["assignments"], index, jnp.full_like(index, step))
            present &= step - visits < self.recent // len(index)
            extra["assignments"] = visits
        losses = [self.classify(large, classes, index, present)]
        if small.shape[1]:
            constant = jax.lax.stop_gradient(classes)
            losses.append(self.classify(small, constant, index, present))
        return jnp.mean(jnp.concatenate(losses, axis=1)), Aux(extra)

    def classify(self, features: Array, classes: Array, index: Array, present: Array) -> Array:
        """Compute the cross-entropy (B, V) of crops (B, V, D) among the classes that are
        `present` (R,), of which `index` (B,) are the right ones.
        """
        features = features / self.temperature
        right = jnp.sum(features * classes[index][:, None], axis=-1)
        # One more feature lowers the scores of absent classes to where exp is 0.
        absent = jnp.where(present, 0, -1e30).astype(classes.dtype)
        classes = jnp.concatenate([classes, absent[:, None]], axis=1)
        rows = jnp.pad(fold(features), ((0, 0), (0, 1)), constant_values=1)
        return log_sum_exp(rows, classes).reshape(right.shape) - right


make = PIC.make
