"""I-JEPA: learning from images with a joint-embedding predictive architecture (2301.08243)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.augment.masks import block_areas, block_size, mask_ids, multi_block, take
from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, Interval, Positive, Share, Whole
from ssl_jax.losses.masked import masked_smooth_l1
from ssl_jax.objectives.base import Aux, Picture
from ssl_jax.objectives.parts.joint_embedding import JointEmbedding, PatchLists
from ssl_jax.objectives.parts.networks import Bound
from ssl_jax.objectives.parts.pictures import ROWS
from ssl_jax.objectives.parts.views import fold

Array = jax.Array
Tree = Any
SQUARE = (1.0, 1.0)  # aspect of the context


@dataclass(frozen=True)
class IJEPA(JointEmbedding):
    """A predictor computes, from the features of a context block, those that the slow average of
    the encoder, which sees the whole image, has for each of several target blocks.

    The backbone is a ViT without a class token. Shared fields: `parts.joint_embedding`.

    Attributes:
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

    Raises:
      UserError: a backbone with a class token, a context that may have `min_keep` patches or fewer.
    """

    needs: ClassVar[str] = "a ViT backbone without a class token"

    blocks: Count = 4
    target_scale: Interval[Share] = (0.15, 0.2)
    target_aspect: Interval[Positive] = (0.75, 1.5)
    context_scale: Interval[Share] = (0.85, 1.0)
    min_keep: Whole = 10
    context_length: Count | None = None
    released_masks: bool = False

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

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images = fold(batch["views"][0])
        context, blocks = self.masks(key, batch["index"])
        nets, slow = self.bind(params, extra)
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

    def predict(self, nets: Bound, tokens: Array, context: PatchLists, blocks: PatchLists) -> Array:
        """Predict the tokens (B M, P, D) of each target block, each by itself."""
        tokens, ids, valid = (jnp.repeat(x, self.blocks, axis=0) for x in (tokens, *context))
        visible = jnp.concatenate([valid, fold(blocks.valid)], axis=1)
        return nets.predictor(tokens, ids, fold(blocks.ids), visible)

    def targets(self, nets: Bound, images: Array, blocks: PatchLists) -> Array:
        """Return the tokens (B M, P, D) of the target blocks in the whole image, normalised."""
        tokens = self.features(nets, images)
        ids = blocks.ids.reshape(len(images), -1)
        return take(tokens, ids).reshape(-1, blocks.ids.shape[-1], tokens.shape[-1])

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        images = images[:ROWS]
        context, blocks = self.masks(key, jnp.arange(len(images)))
        each = {"context": context}
        for i in range(self.blocks):
            each[f"target {i + 1}"] = PatchLists(blocks.ids[:, i], blocks.valid[:, i])
        caption = (
            "From the context alone, a predictor computes the features that the target encoder, "
            "which sees the image, has for the patches of each target block."
        )
        columns = self.masked_images(images, each)
        return {"Context and targets": Picture(columns, caption, ("image", *each))}


make = IJEPA.make
