"""Networks, state and targets of joint-embedding predictive methods (I-JEPA, V-JEPA): a predictor
computes, from the features of the visible patches, those that the encoder's slow average has for
the hidden ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from ssl_jax.augment.patches import patchify, unpatchify
from ssl_jax.core import tree
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import Count, Probability
from ssl_jax.losses.normalize import standardize
from ssl_jax.nets.positions import ClipGrid, Grid
from ssl_jax.nets.predictors import token_predictor
from ssl_jax.objectives.base import Encoder, Objective, Probe, View
from ssl_jax.objectives.parts.ema import linear_momentum
from ssl_jax.objectives.parts.networks import Bound, Networks

Array = jax.Array
Tree = Any


class PatchLists(NamedTuple):
    """Lists of patches, all of one length: `ids` (..., L) int32, and `valid` (..., L) bool, false
    where an entry only fills the list.
    """

    ids: Array
    valid: Array


def every_frame(lists: PatchLists, grid: ClipGrid) -> PatchLists:
    """Repeat lists (B, L) of the patches of one frame for all frames of a grid of tubelets."""
    frames, rows, columns = grid
    first = jnp.arange(frames, dtype=jnp.int32)[:, None] * (rows * columns)
    ids = (lists.ids[:, None] + first).reshape(len(lists.ids), -1)
    return PatchLists(ids, jnp.tile(lists.valid, (1, frames)))


@dataclass(frozen=True)
class JointEmbedding(Objective):
    """Backbone, predictor and target encoder, which is the resulting encoder.

    Attributes:
      view: crop and augmentation (count 1).
      predictor_dim, predictor_depth, predictor_heads: sizes of the predictor.
      momentum: momentum of the target encoder at step 0; it rises to 1 on a line.

    Raises:
      UserError: a backbone with a class token.
    """

    family: ClassVar[str] = "masked"
    decays: ClassVar[str] = r"mask_token$"  # the releases count axes, and this has three
    probe: ClassVar[Probe] = Probe(pool="avg")

    view: OneCrop = View(224, area=(0.3, 1.0), recipe="normalize")
    predictor_dim: Count = 384
    predictor_depth: Count = 12
    predictor_heads: Count = 16
    momentum: Probability = 0.996

    @property
    def grid(self) -> Grid | ClipGrid:
        """Grid of the patches of an example."""
        raise NotImplementedError

    @property
    def lengths(self) -> Any:
        """Lengths of the lists of patches; see the method.

        Raises:
          UserError: too few patches.
        """
        raise NotImplementedError

    @property
    def mask_tokens(self) -> int:
        """Number of mask tokens of the predictor."""
        return 1

    @cached_property
    def networks(self) -> Networks:
        _, width = self.patch_grid
        if self.shapes.cls is not None:
            raise UserError(
                "backbone.cls_token: a class token is not learned here; set "
                "backbone.cls_token=False and backbone.pool='avg'"
            )
        _ = self.lengths  # raises for too few patches
        predictor = token_predictor(
            width,
            dim=self.predictor_dim,
            depth=self.predictor_depth,
            heads=self.predictor_heads,
            grid=self.grid,
            mask_tokens=self.mask_tokens,
            **{name: getattr(self.backbone.config, name) for name in ("remat", "dtype")},
        )
        return self.backbone_and(predictor=predictor)

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.networks.init(key)
        target, target_stats = ({"backbone": each["backbone"]} for each in (params, stats))
        return params, {"stats": stats, "target": target, "target_stats": target_stats}

    def bind(self, params: Tree, extra: Tree) -> tuple[Bound, Bound]:
        """Return the trained networks, and the target encoder, as functions."""
        slow = self.networks.only("backbone")
        return (
            self.networks.bind(params, extra["stats"]),
            slow.bind(extra["target"], extra["target_stats"]),
        )

    def encode(self, nets: Bound, images: Array, context: PatchLists) -> Array:
        """Compute tokens (B, K, D) of the context alone."""
        return nets.backbone(images, keep=context.ids, visible=context.valid).tokens

    def features(self, nets: Bound, images: Array) -> Array:
        """Return the tokens (B, N, D) of the whole input, normalised."""
        return standardize(nets.backbone(images).tokens)

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        momentum = linear_momentum(step, self.spec.total_steps, self.momentum)
        trained = {"backbone": params["backbone"]}
        return params, dict(extra, target=tree.ema(extra["target"], trained, momentum))

    def teacher(self, params: Tree, extra: Tree) -> tuple[Tree, Tree] | None:
        return extra["target"], extra["target_stats"]

    def encoder(self, params: Tree, extra: Tree) -> Encoder:
        target, stats = extra["target"]["backbone"], extra["target_stats"]["backbone"]
        return Encoder(target, stats, self.backbone)

    def masked_images(self, images: Array, lists: Mapping[str, PatchLists]) -> Array:
        """Return the images, and for each of the `lists` its patches of them alone, for a picture:
        (B, 1 + n, H, W, C).
        """
        patch = self.view.side // self.patch_grid[0]
        patches = patchify(images, patch)

        def only(listed: PatchLists) -> Array:
            places = jax.nn.one_hot(listed.ids, patches.shape[1]) * listed.valid[..., None]
            return unpatchify(patches * places.max(1)[..., None], patch)

        return jnp.stack([images, *map(only, lists.values())], axis=1)
