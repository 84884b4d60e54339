"""PIRL: self-supervised learning of pretext-invariant representations (1912.01991)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.augment import recipes
from ssl_jax.augment.patches import jigsaw_tiles
from ssl_jax.core import rng
from ssl_jax.core.chain import Chain
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Inputs, OneCrop
from ssl_jax.core.ranges import BelowOne, Count, Positive, Probability, Several, Whole
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.nets.functional import output_shapes
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Objective, View
from ssl_jax.objectives.parts import memory
from ssl_jax.objectives.parts.networks import Bound, Networks
from ssl_jax.objectives.parts.views import fold, unfold

Array = jax.Array
Tree = Any
EPS = 2.0**-23  # vissl, losses/nce_loss.py: float32's epsilon, in the denominators of the NCE


@dataclass(frozen=True)
class PIRL(Objective):
    """An image and its shuffled patches both have to find the image in a memory of past
    embeddings, so the representation is invariant to the puzzle instead of solving it.

    Attributes:
      view: crop and augmentation of the image (count 1).
      puzzle: crop of the image that is cut into patches, independent of the other (count 1).
      patch_recipe: chain that augments and normalises each patch by itself; the chain of `puzzle`
        comes first, for the whole.
      rows: the puzzle is a grid of rows x rows cells.
      tile: side of a patch in pixels, cut at random out of its cell.
      projector: widths of the layers of the image's and of each patch's head, without batch norm.
      patch_weight: weight of the patches' term (lambda); that of the image's is the rest.
      criterion: "nce" (1805.01978) or "softmax" over the same candidates.
      negatives: number of images drawn for each image; 0 uses the softmax over all.
      shared_negatives: both terms have the same negatives (PyContrast); else each draws its own
        (vissl).
      temperature: temperature of the scores.
      momentum: momentum of the vectors in the memory, which average the image's embeddings.

    Raises:
      UserError: patches larger than their cells, views of several crops, or fewer images than
        negatives.
    """

    family: ClassVar[str] = "contrastive"
    needs: ClassVar[str] = "a network for images of any size; a memory of one vector per image"

    view: OneCrop = View(224, area=(0.08, 1.0), recipe="pirl")
    puzzle: OneCrop = View(255, area=(0.6, 1.0), recipe="none")
    patch_recipe: Chain = "pirl"
    rows: Several = 3
    tile: Count = 64
    projector: tuple[Count, ...] = (128,)
    patch_weight: Probability = 0.5
    criterion: memory.Criterion = "nce"
    negatives: Whole = 32000
    shared_negatives: bool = False
    temperature: Positive = 0.07
    momentum: BelowOne = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        cell = self.puzzle.side // self.rows
        if self.tile > cell:
            raise UserError(
                f"objective.tile: {self.tile} px do not fit the cells of a puzzle of "
                f"{self.puzzle.side} px in {self.rows} rows; use at most {cell}"
            )
        recipes.recipe(self.patch_recipe)
        memory.check_negatives(self.negatives, self.spec.num_examples)

    def inputs(self) -> Inputs:
        return Inputs(views=(self.view, self.puzzle))

    @cached_property
    def networks(self) -> Networks:
        patch = (self.tile, self.tile, self.spec.channels)
        dim = output_shapes(self.backbone, patch).pooled.shape[0]
        width = self.projector[-1]
        return self.backbone_and(
            projector=mlp_head(self.feature_dim, self.projector, norm=None),
            patch_projector=mlp_head(dim, self.projector, norm=None),
            puzzle_projector=mlp_head(self.rows**2 * width, (width,)),
        )

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.networks.init(key)
        bank = memory.uniform(rng.named(key, "memory"), self.spec.num_examples, self.projector[-1])
        # The partition constant is estimated from the first batch and then stays; 0 until then.
        partition = jnp.zeros((), jnp.float32)
        return params, {"stats": stats, "memory": l2_normalize(bank), "partition": partition}

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        index, bank, partition = batch["index"], extra["memory"], extra["partition"]
        image, puzzle = (view[:, 0] for view in batch["views"])
        nets = self.networks.bind(params, extra["stats"])
        patches, order = self.shuffled(rng.per_example(key, index), puzzle)
        puzzles = l2_normalize(self.embed(nets, patches, order))
        images = l2_normalize(nets.projector(nets.backbone(image).pooled))
        contrast = partial(
            memory.contrast,
            count=self.spec.num_examples,
            temperature=self.temperature,
            criterion=self.criterion,
            eps=EPS,
        )
        puzzle_rows, image_rows = self.candidates(key, index)
        # The patches come first: one constant serves both terms.
        puzzle_loss, partition = contrast(puzzles, bank, index, puzzle_rows, partition)
        image_loss, partition = contrast(images, bank, index, image_rows, partition)
        loss = self.patch_weight * puzzle_loss + (1 - self.patch_weight) * image_loss
        extra = dict(extra, stats=nets.stats, partition=partition)
        metrics = {"image_loss": image_loss, "puzzle_loss": puzzle_loss}
        return loss, Aux(extra, {"features": images, "index": index}, metrics)

    def shuffled(self, keys: Array, images: Array) -> tuple[Array, Array]:
        """Cut patches (B, rows^2, tile, tile, C) in the order of the grid, and draw the order in
        which each image's are shown, (B, rows^2), any of all permutations.
        """
        count, chain = self.rows**2, recipes.recipe(self.patch_recipe)

        def make(key: Array, image: Array) -> tuple[Array, Array]:
            cut_key, order_key, patch_key = jax.random.split(key, 3)
            tiles = jigsaw_tiles(cut_key, image, self.rows, self.tile)
            augment = jax.vmap(partial(recipes.apply, chain))
            tiles = augment(jax.random.split(patch_key, count), tiles)
            return tiles, jax.random.permutation(order_key, count)

        return jax.vmap(make)(keys, images)

    def embed(self, nets: Bound, patches: Array, order: Array) -> Array:
        """Embed each patch by itself, then all of an image in their order: (B, dim)."""
        each = nets.patch_projector(nets.backbone(fold(patches)).pooled)
        each = unfold(each, patches.shape[1])
        each = jnp.take_along_axis(each, order[:, :, None], axis=1)
        return nets.puzzle_projector(each.reshape(len(each), -1))

    def candidates(self, key: Array, index: Array) -> tuple[Array | None, Array | None]:
        """Draw the images (B, 1 + negatives) that the puzzle and the image compare with."""
        if not self.negatives:
            return None, None
        draw = partial(
            memory.candidates,
            index=index,
            negatives=self.negatives,
            count=self.spec.num_examples,
        )
        ours, theirs = (rng.per_example(rng.named(key, k), index) for k in ("puzzle", "image"))
        return draw(ours), draw(ours if self.shared_negatives else theirs)

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        index, features = signals["index"], signals["features"]
        bank = memory.average(extra["memory"], index, features, self.momentum)
        return params, dict(extra, memory=bank)


make = PIRL.make
