"""V-JEPA: revisiting feature prediction for learning visual representations from video
(2404.08471).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.augment.masks import block_areas, block_size, take, tube_ids
from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Inputs, OneCrop
from ssl_jax.core.ranges import Count, Interval, Positive, Probability, Share
from ssl_jax.losses.masked import masked_token_l1
from ssl_jax.objectives.base import Aux, Picture, View
from ssl_jax.objectives.parts.joint_embedding import JointEmbedding, PatchLists, every_frame
from ssl_jax.objectives.parts.networks import Bound
from ssl_jax.objectives.parts.pictures import ROWS
from ssl_jax.objectives.parts.views import augmented_frames

Array = jax.Array
Tree = Any
Masks = tuple[PatchLists, PatchLists]  # of the context and of the targets


@dataclass(frozen=True)
class Tubes:
    """A kind of mask: a union of blocks, which is the same in every frame of a clip.

    Attributes:
      blocks: number of blocks.
      scale: share of a frame that each block covers.
      context, targets: tubes of the context that are encoded, and tubes that are predicted; of more
        of them, random ones are dropped. None takes all. The time of a step grows with these
        numbers, not with the tubes that there are.
    """

    blocks: Count
    scale: Share
    context: Count | None = None
    targets: Count | None = None


@dataclass(frozen=True)
class VJEPA(JointEmbedding):
    """A predictor computes, from the features of the visible tubes of a clip, those that the slow
    average of the encoder, which sees the whole clip, has for the hidden tubes.

    The loss is the mean over the kinds of masks, each with its own mask token, of the L1 distance.
    The release cuts the lists of a batch to the shortest; here nothing is cut, and what fills a
    list has no influence. The backbone is a `vit_video` without a class token; it repeats single
    images to clips, as the release does (`evals/image_classification_frozen`). Shared fields:
    `parts.joint_embedding`.

    Attributes:
      tubes: kinds of masks: "short-range" and "long-range" in the paper.
      aspect: range of the blocks' height over their width.

    Raises:
      UserError: a backbone of images or with a class token, blocks that cover the whole frame.
    """

    needs: ClassVar[str] = "clips, and the backbone `vit_video` without a class token"

    view: OneCrop = View(224, area=(0.3, 1.0), recipe="mae")
    tubes: tuple[Tubes, ...] = (Tubes(8, 0.15), Tubes(2, 0.7))
    aspect: Interval[Positive] = (0.75, 1.5)
    momentum: Probability = 0.998

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tubes:
            raise UserError("objective.tubes: expected at least one kind of mask, got none")

    def inputs(self) -> Inputs:
        return Inputs((self.view,), frames=self.clip.frames)

    @property
    def clip(self) -> Any:
        """Config of the backbone, with the sizes of a clip."""
        if not hasattr(self.backbone.config, "times"):
            raise UserError(
                "objective: this backbone reads single images, but the method needs clips; set "
                "backbone.name='vit_video'"
            )
        return self.backbone.config

    @cached_property
    def grid(self) -> tuple[int, int, int]:
        rows, _ = self.patch_grid
        return self.clip.times, rows, rows

    @property
    def mask_tokens(self) -> int:
        return len(self.tubes)

    @cached_property
    def lengths(self) -> tuple[tuple[int, int], ...]:
        """Tubes in the lists of context and targets, for each kind of mask."""
        _, rows, columns = self.grid
        patches, out = rows * columns, []
        for tubes in self.tubes:
            least, most = block_areas((rows, columns), (tubes.scale,) * 2, self.aspect)
            if most == patches:
                raise UserError(
                    f"objective.tubes: a block of scale {tubes.scale} hides all {patches} patches "
                    "of a frame; use a smaller scale or smaller patches"
                )
            visible, hidden = patches - least, min(tubes.blocks * most, patches - 1)
            out.append(
                (min(tubes.context or visible, visible), min(tubes.targets or hidden, hidden))
            )
        return tuple(out)

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        clips = augmented_frames(self.view, batch, key)
        nets, slow = self.bind(params, extra)
        features = self.features(slow, clips)
        losses = []
        for kind, (context, targets) in enumerate(self.masks(key, batch["index"])):
            tokens = self.encode(nets, clips, context)
            prediction = self.predict(nets, tokens, context, targets, kind)
            losses.append(masked_token_l1(prediction, take(features, targets.ids), targets.valid))
        return jnp.mean(jnp.stack(losses)), Aux(dict(extra, stats=nets.stats))

    def predict(
        self, nets: Bound, tokens: Array, context: PatchLists, targets: PatchLists, kind: int
    ) -> Array:
        """Predict the tokens (B, P, D) of the targets, with the mask token of their kind."""
        visible = jnp.concatenate([context.valid, targets.valid], axis=1)
        return nets.predictor(tokens, context.ids, targets.ids, visible, kind=kind)

    def masks(self, key: Array, index: Array) -> tuple[Masks, ...]:
        """Draw the context (B, K) and the targets (B, P) of each kind: ids over frame, row, column.

        The sizes of the blocks belong to the step, their places to the example.
        """
        repeat = partial(every_frame, grid=self.grid)
        lists = self.tube_lists(key, index)
        return tuple((repeat(context), repeat(targets)) for context, targets in lists)

    def tube_lists(self, key: Array, index: Array) -> tuple[Masks, ...]:
        """Draw what `masks` does, in one frame: ids over row, column."""
        grid, out = self.grid[1:], []
        for kind, (tubes, lengths) in enumerate(zip(self.tubes, self.lengths, strict=True)):
            own = rng.named(key, f"tubes{kind}")
            share, draw = (tubes.scale,) * 2, jax.random.uniform(rng.named(own, "sizes"))
            size = block_size(draw, grid, share, self.aspect)
            keys = rng.per_example(rng.named(own, "places"), index)
            lists = partial(tube_ids, grid=grid, size=size, blocks=tubes.blocks, lengths=lengths)
            context, targets = jax.vmap(lists)(keys)
            out.append((PatchLists(*context), PatchLists(*targets)))
        return tuple(out)

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        images = images[:ROWS]
        masks = self.tube_lists(key, jnp.arange(len(images)))
        contexts = {f"context {i + 1}": context for i, (context, _) in enumerate(masks)}
        caption = (
            "The encoder sees these patches of every frame of a clip. From their features, a "
            "predictor computes those that the target encoder, which sees the whole clip, has for "
            "the hidden ones."
        )
        columns = self.masked_images(images, contexts)
        return {"Visible tubes": Picture(columns, caption, ("first frame", *contexts))}


make = VJEPA.make
