"""Two views of an image whose maps are compared pixel by pixel: networks, state and pairs of PixPro
and PixContrast (2011.10043).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ssl_jax.core import rng, tree
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Inputs, OneCrop
from ssl_jax.core.ranges import Count, NonNegative, Positive, Probability
from ssl_jax.losses.infonce import infonce
from ssl_jax.losses.negative_cosine import negative_cosine
from ssl_jax.nets.functional import Net
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Objective, Picture, View
from ssl_jax.objectives.parts import pixel_grid, pixel_pictures
from ssl_jax.objectives.parts.ema import cosine_momentum
from ssl_jax.objectives.parts.networks import Bound, Networks
from ssl_jax.objectives.parts.views import separate

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class PixelViews(Objective):
    """Pixels of one view's map are compared with the key encoder's pixels of the other view.

    A method defines `compare`, the loss of one direction.

    Attributes:
      views: the two views, of one size, each with its own augmentation (count 1).
      projector: hidden and output width of the 1x1 convolutions that embed the backbone's map.
      momentum: momentum of the key encoder's average at step 0; it rises to 1 along a cosine.
      threshold: largest distance of a positive pair, in diagonals of the larger pixel, exclusive.
      instance: further loss of the averaged maps of a second head: "regression" of one view's
        prediction onto the other's key (BYOL's form; the release), "contrast" of query and key
        among those of the batch (SimCLR with a key encoder, the paper's form), or "none".
      instance_weight: weight of that loss.
      instance_temperature: temperature of the form "contrast".

    Raises:
      UserError: views of two sizes; a map of a single pixel.
    """

    needs: ClassVar[str] = "a map of several pixels"

    views: tuple[OneCrop, OneCrop] = (
        View(224, area=(0.08, 1.0), recipe="dino_1"),  # BYOL's chains with PyTorch's jitter
        View(224, area=(0.08, 1.0), recipe="dino_2"),
    )
    projector: tuple[Count, ...] = (4096, 256)
    momentum: Probability = 0.99
    threshold: Positive = 0.7
    instance: Literal["none", "regression", "contrast"] = "none"
    instance_weight: NonNegative = 1.0
    instance_temperature: Positive = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        first, second = self.views
        if first.sides != second.sides:
            raise UserError("objective.views: expected two views of one size")

    def unused(self) -> Mapping[str, str]:
        """See `core.config.check_used`."""
        if self.instance == "contrast":
            return {}
        reasons = {"instance_temperature": "it needs objective.instance='contrast'"}
        if self.instance == "none":
            reasons["instance_weight"] = "objective.instance is 'none'"
        return reasons

    def inputs(self) -> Inputs:
        return replace(super().inputs(), placement=True)

    @cached_property
    def grid(self) -> pixel_grid.Grid:
        """Rows and columns of the maps."""
        rows, columns, _ = self.shapes.map.shape  # type: ignore[union-attr]  # all have a map
        if rows * columns < 2:
            raise UserError(
                "objective.views: the backbone's map of these views is a single pixel, which "
                "matches nothing; use a larger size or a backbone with a smaller stride"
            )
        return rows, columns

    @cached_property
    def networks(self) -> Networks:
        _ = self.grid  # raises for a map of one pixel
        width = self.shapes.map.shape[-1]  # type: ignore[union-attr]
        nets = {"projector": self.head(width)} | dict(self.predictors())
        if self.instance != "none":
            nets["instance_projector"] = self.head(width)
        if self.instance == "regression":
            nets["instance_predictor"] = self.head(self.projector[-1])
        return self.backbone_and(**nets)

    def predictors(self) -> Mapping[str, Net]:
        """Return the networks of the method that its key encoder lacks."""
        return {}

    def head(self, width: int) -> Net:
        return mlp_head(width, self.projector, hidden_bias=True, last_bias=True, init="torch")

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.networks.init(key)
        names = ("backbone", "projector", "instance_projector")
        slow, slow_stats = ({n: each[n] for n in names if n in each} for each in (params, stats))
        return params, {"stats": stats, "key_encoder": slow, "key_stats": slow_stats}

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        positives = self.positives(batch)
        nets = self.networks.bind(params, extra["stats"])
        slow = self.networks.bind(extra["key_encoder"], extra["key_stats"])
        queries, keys = [], []
        for view in separate(batch["views"]):  # one by one: batch norm sees each view by itself
            queries.append(self.queries(nets, nets.backbone(view).map))
            keys.append(self.keys(slow, slow.backbone(view).map))
        matched = jnp.any(positives, 2)
        loss = self.compare(queries[0]["pixels"], keys[1]["pixels"], positives)
        loss += self.compare(queries[1]["pixels"], keys[0]["pixels"], jnp.swapaxes(positives, 1, 2))
        metrics = {"pixel_loss": loss, "matched": jnp.mean(matched, dtype=loss.dtype)}
        if self.instance != "none":
            images = self.instance_loss(*([x["image"] for x in each] for each in (queries, keys)))
            loss = loss + self.instance_weight * images
            metrics["instance_loss"] = images
        extra = dict(extra, stats=nets.stats, key_stats=slow.stats)
        return loss, Aux(extra, metrics=metrics)

    def positives(self, batch: Mapping[str, Any]) -> Array:
        """Return which pixels of the first view and of the second one show the same part of the
        image: (B, h w, h w) bool.

        Raises:
          UserError: a batch without placements.
        """
        if "placement" not in batch:
            raise UserError(
                "batch: no 'placement' of the views in their images, which tells which pixels match"
            )
        first, second = separate(batch["placement"])
        return pixel_grid.relative_distances(first, second, self.grid) < self.threshold

    def queries(self, nets: Bound, maps: Array) -> dict[str, Array]:
        """Embed maps (B, h, w, D) of a view: "pixels" (B, h w, d) and, with an instance loss,
        "image" (B, d).
        """
        out = {"pixels": flat(self.predict(nets, nets.projector(maps)))}
        if self.instance != "none":
            images = nets.instance_projector(maps)
            if self.instance == "regression":
                images = nets.instance_predictor(images)
            out["image"] = jnp.mean(images, (1, 2))
        return out

    def keys(self, nets: Bound, maps: Array) -> dict[str, Array]:
        """Embed maps by the key encoder; see `queries`."""
        out = {"pixels": flat(nets.projector(maps))}
        if self.instance != "none":
            out["image"] = jnp.mean(nets.instance_projector(maps), (1, 2))
        return out

    def predict(self, nets: Bound, embedded: Array) -> Array:
        """Return the queries (B, h, w, d) of the projector's output; by default the same."""
        return embedded

    def compare(self, queries: Array, keys: Array, positives: Array) -> Array:
        """Compute the scalar loss of one direction from queries and keys (B, h w, d) and the
        `positives` among their pairs (B, h w, h w). The loss is the sum of both directions.
        """
        raise NotImplementedError

    def instance_loss(self, queries: Sequence[Array], keys: Sequence[Array]) -> Array:
        """Compute the scalar loss of the images of both views, (B, d) each."""
        (q1, q2), (k1, k2) = queries, keys
        if self.instance == "regression":  # the factor 2 is that of the release, as for the pixels
            return 2 * jnp.mean(negative_cosine(q1, k2) + negative_cosine(q2, k1))
        t = self.instance_temperature
        return jnp.mean(infonce(q1, k2, t) + infonce(q2, k1, t))

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        # The release averages before the next step's keys, with that step's momentum.
        momentum = cosine_momentum(step + 1, self.spec.total_steps, self.momentum)
        trained = {name: params[name] for name in extra["key_encoder"]}
        slow = tree.ema(extra["key_encoder"], trained, momentum)
        return params, dict(extra, key_encoder=slow)

    def teacher(self, params: Tree, extra: Tree) -> tuple[Tree, Tree] | None:
        return extra["key_encoder"], extra["key_stats"]

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        batch = pixel_pictures.views(self.inputs(), images, rng.named(key, "views"))
        first, second = separate(batch["views"])
        picture = pixel_pictures.matched(
            self.views[0], first, second, self.positives(batch), self.grid
        )
        return {"Matched pixels": picture}


def flat(maps: Array) -> Array:
    """Reshape (B, h, w, d) to (B, h w, d)."""
    return maps.reshape(len(maps), -1, maps.shape[-1])
