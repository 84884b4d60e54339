"""VICRegL: self-supervised learning of local visual features (2210.01571)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment.geometric import IDENTITY, MIRROR
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, NonNegative, Probability
from ssl_jax.losses.vicregl import LARGE, matched_places, nearest_places, whole_views
from ssl_jax.nets.functional import output_shapes
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Inputs, Objective, Picture, View
from ssl_jax.objectives.parts import pixel_grid
from ssl_jax.objectives.parts.multicrop import leading_groups
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.pictures import ROWS, from_matches
from ssl_jax.objectives.parts.views import separate

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class VICRegL(Objective):
    """VICReg of whole views, and of places of their maps that show the same part of the image or
    have similar features.

    Locations come from the placements of the views, in units of the image's sides. The release
    measures them in pixels and, by default (`no_flip_grid`), does not mirror them with a mirrored
    view, so that its matches by location are then wrong; here they are mirrored, as in the paper.

    Attributes:
      views: groups of views; the first two views are the large ones. Each of them is compared with
        all other views. Batch norm sees each view by itself.
      projector: widths of the expander of whole views, as in `vicreg`.
      map_projector: widths of the expander of places; its batch norm sees all places of a view.
      global_weight: share of the loss of whole views, the paper's alpha.
      matches: number of matches from a large view to another view, and back: those that are closest
        together.
      all_feature_matches: match all places by feature, as in the release, not `matches` of them.
      invariance_weight, variance_weight, covariance_weight: weights of the terms of both losses.

    Raises:
      UserError: not two large views, or maps of fewer places than `matches`.
    """

    family: ClassVar[str] = "siamese"
    least_batch: ClassVar[int] = 2

    views: tuple[View, ...] = (
        View(224, area=(0.08, 1.0), recipe="dino_1", interpolation="bicubic"),
        View(224, area=(0.08, 1.0), recipe="dino_2", interpolation="bicubic"),
    )
    projector: tuple[Count, ...] = (8192, 8192, 8192)
    map_projector: tuple[Count, ...] = (512, 512, 512)
    global_weight: Probability = 0.75
    matches: tuple[Count, Count] = (20, 4)
    all_feature_matches: bool = True
    invariance_weight: NonNegative = 25.0
    variance_weight: NonNegative = 25.0
    covariance_weight: NonNegative = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        leading_groups(self.views, LARGE)  # raises if they do not fill whole groups

    def inputs(self) -> Inputs:
        return replace(super().inputs(), placement=True)

    @cached_property
    def grids(self) -> list[tuple[int, int]]:
        """Rows and columns of the map of each view.

        Raises:
          UserError: the backbone has no map, or one of fewer places than there are matches.
        """
        grids: list[tuple[int, int]] = []
        for view in self.views:
            shape = output_shapes(self.backbone, (*view.sides, self.spec.channels)).map
            if shape is None:
                raise UserError("objective: this backbone has no map; set backbone.name='resnet'")
            grids += [(shape.shape[0], shape.shape[1])] * view.count
        places = [rows * columns for rows, columns in grids]
        for most, count, which in (
            (self.matches[0], min(places[:LARGE]), "large"),
            (self.matches[1], min(places), "smallest"),
        ):
            if most > count:
                raise UserError(
                    f"objective.matches: {self.matches}, but the map of the {which} view has "
                    f"{count} places; use at most that many"
                )
        return grids

    @cached_property
    def networks(self) -> Networks:
        _ = self.grids  # raises for maps that are too small
        shape = self.shapes.map.shape  # type: ignore[union-attr]
        # The release also has biases before its batch norms, where they have no effect.
        return self.backbone_and(
            projector=mlp_head(self.feature_dim, self.projector, last_bias=False, init="torch"),
            map_projector=mlp_head(shape[-1], self.map_projector, last_bias=False, init="torch"),
        )

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        nets = self.networks.bind(params, extra["stats"])
        embeddings, maps, locations = [], [], []
        placements = separate(batch["placement"])
        for grid, images, at in zip(self.grids, separate(batch["views"]), placements, strict=True):
            features = nets.backbone(images)
            embeddings.append(nets.projector(features.pooled))
            places = features.map.reshape(len(images), -1, features.map.shape[-1])
            maps.append(nets.map_projector(places))
            locations.append(pixel_grid.centres(at, grid))
        whole, local = self.criteria(embeddings, maps, locations)
        loss = self.global_weight * whole + (1 - self.global_weight) * local
        metrics = {"global_loss": whole, "local_loss": local}
        return loss, Aux({"stats": nets.stats}, metrics=metrics)

    def criteria(
        self, embeddings: list[Array], maps: list[Array], locations: list[Array]
    ) -> tuple[Array, Array]:
        """Compute the scalar losses of whole views and of places.

        Args:
          embeddings: (B, D) per view.
          maps, locations: (B, n, C) and (B, n, 2) per view.
        """
        pairs = [(i, j) for i in range(LARGE) for j in range(len(maps)) if i != j]
        places = [
            matched_places(
                maps[i],
                maps[j],
                locations[i],
                locations[j],
                self.matches,
                all_features=self.all_feature_matches,
            )
            for i, j in pairs
        ]
        means = [jnp.stack(term).mean() for term in zip(*places, strict=True)]
        weights = self.invariance_weight, self.variance_weight, self.covariance_weight

        def total(terms: Sequence[Array]) -> Array:
            return jnp.stack([w * x for w, x in zip(weights, terms, strict=True)]).sum()

        return total(whole_views(jnp.stack(embeddings, axis=1))), total(means)

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        first = images[:ROWS]
        second, grid = first[:, :, ::-1], self.grids[0]
        nets = self.networks.bind(params, extra["stats"], train=False)
        maps = [nets.backbone(view).map for view in (first, second)]
        features = [nets.map_projector(x.reshape(len(x), -1, x.shape[-1])) for x in maps]
        placements = [jnp.tile(np.float32(p), (len(first), 1, 1)) for p in (IDENTITY, MIRROR)]
        locations = [pixel_grid.centres(at, grid) for at in placements]
        rebuilt = []
        for values in (locations, features):
            _, match = nearest_places(pixel_grid.distances(*values))
            rebuilt.append(from_matches(second, match, grid))
        caption = (
            "Each patch of the first image is replaced by a patch of its mirror image: the one at "
            "the same location, and the one with the nearest embedding. These are the pairs that "
            "the loss of places pulls together; a good match by feature shows the same part."
        )
        columns = ("image", "mirror image", "matched by location", "matched by feature")
        pictures = Picture(jnp.stack([first, second, *rebuilt], axis=1), caption, columns)
        return {"Matched places": pictures}


make = VICRegL.make
