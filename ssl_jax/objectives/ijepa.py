"""I-JEPA: learning from images with a joint-embedding predictive architecture (2301.08243)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from ssl_jax.augment.masks import block_areas, block_size, mask_ids, multi_block, take
from ssl_jax.augment.patches import patchify, unpatchify
from ssl_jax.core import rng, tree
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, Positive, Probability, Share, Whole
from ssl_jax.losses.masked import masked_smooth_l1
from ssl_jax.losses.normalize import standardize
from ssl_jax.nets.predictors import token_predictor
from ssl_jax.objectives.base import Aux, Encoder, Objective, Picture, Probe, View
from ssl_jax.objectives.parts.ema import linear_momentum
from ssl_jax.objectives.parts.networks import Bound, Networks
from ssl_jax.objectives.parts.pictures import ROWS
from ssl_jax.objectives.parts.views import fold

Array = jax.Array
Tree = Any
SQUARE = (1.0, 1.0)  # aspect of the context


class PatchLists(NamedTuple):
    """Lists of patches, all of one length: `ids` (..., L) int32, and `valid` (..., L) bool, false
    where an entry only fills the list.
    """

    ids: Array
    valid: Array


@dataclass(frozen=True)
class IJEPA(Objective):
    """A predictor computes, from the features of a context block, those that the slow average of
    the encoder, which sees the whole image, has for each of several target blocks.

    The backbone is a ViT without a class token. The target encoder is the resulting encoder.

    Attributes:
      view: crop and augmentation (count 1).
      blocks: number of target blocks, M.
      target_scale, target_aspect: ranges of a target block's share of the image and of its height
        over its width.
      context_scale: range of the share of the context block, a square, before the patches of the
        targets are taken out of it.
      min_keep: the context has more patches than this; see `augment.masks.multi_block`.
      context_length: patches of the context that are encoded; a larger context loses random ones.
        None encodes all. The time of a step grows with it, not with the patches that there are.
      released_masks: draw the masks of the released code: no block reaches the last row or column,
        and the contexts are cut, row by row, to the shortest one of the batch (of a device there).
      predictor_dim, predictor_depth, predictor_heads: sizes of the predictor.
      momentum: momentum of the target encoder at step 0; it rises to 1 on a line.

    Raises:
      UserError: a backbone with a class token, a range that falls, a context that may have
        `min_keep` patches or fewer.
    """

    family: ClassVar[str] = "masked"
    needs: ClassVar[str] = "a ViT backbone without a class token"
    decays: ClassVar[str] = r"mask_token$"  # the release counts axes, and this has three
    probe: ClassVar[Probe] = Probe(pool="avg")

    view: View = View(224, area=(0.3, 1.0), recipe="normalize")
    blocks: Count = 4
    target_scale: tuple[Share, Share] = (0.15, 0.2)
    target_aspect: tuple[Positive, Positive] = (0.75, 1.5)
    context_scale: tuple[Share, Share] = (0.85, 1.0)
    min_keep: Whole = 10
    context_length: Count | None = None
    released_masks: bool = False
    predictor_dim: Count = 384
    predictor_depth: Count = 12
    predictor_heads: Count = 16
    momentum: Probability = 0.996

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("target_scale", "target_aspect", "context_scale"):
            low, high = getattr(self, name)
            if low > high:
                raise UserError(f"objective.{name}: expected a rising range, got ({low}, {high})")

    @cached_property
    def grid(self) -> tuple[int, int]:
        return (self.patch_grid[0],) * 2

    @cached_property
    def lengths(self) -> tuple[int, int]:
        """Lengths of the lists of the context and of a target block."""
        border = not self.released_masks
        least, most = block_areas(self.grid, self.context_scale, SQUARE, border)
        if least <= self.min_keep:
            raise UserError(
                f"objective.min_keep: the smallest context block has {least} of "
                f"{self.grid[0] ** 2} patches, expected more than {self.min_keep}; use a smaller "
                "min_keep, a larger context_scale or smaller patches"
            )
        target = block_areas(self.grid, self.target_scale, self.target_aspect, border)[1]
        return min(self.context_length or most, most), target

    @cached_property
    def networks(self) -> Networks:
        _, width = self.patch_grid
        if self.shapes.cls is not None:
            raise UserError(
                "backbone.cls_token: a class token is not learned here; set "
                "backbone.cls_token=False and backbone.pool='avg'"
            )
        _ = self.lengths  # raises for a context that is too small
        predictor = token_predictor(
            width,
            dim=self.predictor_dim,
            depth=self.predictor_depth,
            heads=self.predictor_heads,
            grid=self.grid,
            **{name: getattr(self.backbone.config, name) for name in ("remat", "dtype")},
        )
        return self.backbone_and(predictor=predictor)

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.networks.init(key)
        target, target_stats = ({"backbone": each["backbone"]} for each in (params, stats))
        return params, {"stats": stats, "target": target, "target_stats": target_stats}

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images = fold(batch["views"][0])
        context, blocks = self.masks(key, batch["index"])
        nets = self.networks.bind(params, extra["stats"])
        slow = self.networks.only("backbone").bind(extra["target"], extra["target_stats"])
        tokens = self.encode(nets, images, context)
        prediction = self.predict(nets, tokens, context, blocks)
        loss = masked_smooth_l1(prediction, self.targets(slow, images, blocks), fold(blocks.valid))
        return loss, Aux(dict(extra, stats=nets.stats))

    def masks(self, key: Array, index: Array) -> tuple[PatchLists, PatchLists]:
        """Draw the patches of the contexts (B, K) and of the target blocks (B, M, P).

        The sizes of the blocks belong to the step, their places to the example.
        """
        border = not self.released_masks
        length, target_length = self.lengths
        draws = jax.random.uniform(rng.named(key, "sizes"), (2,))
        target = block_size(draws[0], self.grid, self.target_scale, self.target_aspect, border)
        context = block_size(draws[1], self.grid, self.context_scale, SQUARE, border)

        def draw(key: Array) -> tuple[PatchLists, PatchLists]:
            key, rest = jax.random.split(key)
            visible, hidden = multi_block(
                key, self.grid, target, context, self.blocks, self.min_keep, border
            )
            own = mask_ids(visible, length, None if self.released_masks else rest)
            return PatchLists(*own), PatchLists(*mask_ids(hidden, target_length))

        contexts, blocks = jax.vmap(draw)(rng.per_example(rng.named(key, "places"), index))
        if self.released_masks:
            shortest = contexts.valid.sum(-1).min()
            contexts = contexts._replace(valid=contexts.valid & (jnp.arange(length) < shortest))
        return contexts, blocks

    def encode(self, nets: Bound, images: Array, context: PatchLists) -> Array:
        """Compute tokens (B, K, D) of the context alone."""
        return nets.backbone(images, keep=context.ids, visible=context.valid).tokens

    def predict(self, nets: Bound, tokens: Array, context: PatchLists, blocks: PatchLists) -> Array:
        """Predict the tokens (B M, P, D) of each target block, each by itself."""
        tokens, ids, valid = (jnp.repeat(x, self.blocks, axis=0) for x in (tokens, *context))
        visible = jnp.concatenate([valid, fold(blocks.valid)], axis=1)
        return nets.predictor(tokens, ids, fold(blocks.ids), visible)

    def targets(self, nets: Bound, images: Array, blocks: PatchLists) -> Array:
        """Return the tokens (B M, P, D) of the target blocks in the whole image, normalised."""
        tokens = standardize(nets.backbone(images).tokens)
        ids = blocks.ids.reshape(len(images), -1)
        return take(tokens, ids).reshape(-1, blocks.ids.shape[-1], tokens.shape[-1])

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

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        images = images[:ROWS]
        context, blocks = self.masks(key, jnp.arange(len(images)))
        patch = self.view.side // self.grid[0]
        patches = patchify(images, patch)

        def only(some: PatchLists) -> Array:
            places = jax.nn.one_hot(some.ids, patches.shape[1]) * some.valid[..., None]
            return unpatchify(patches * places.max(1)[..., None], patch)

        each = [PatchLists(blocks.ids[:, i], blocks.valid[:, i]) for i in range(self.blocks)]
        columns = [images, only(context), *map(only, each)]
        caption = (
            "From the context alone, a predictor computes the features that the target encoder, "
            "which sees the image, has for the patches of each target block."
        )
        names = ("image", "context", *(f"target {i + 1}" for i in range(self.blocks)))
        return {"Context and targets": Picture(jnp.stack(columns, axis=1), caption, names)}


make = IJEPA.make
