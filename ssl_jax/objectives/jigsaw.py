"""Jigsaw: unsupervised learning of visual representations by solving puzzles (1603.09246)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment.patches import jigsaw_tiles, standardize
from ssl_jax.augment.permutations import check_count, distant_permutations
from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import Count, Several, Whole
from ssl_jax.losses.cross_entropy import cross_entropy
from ssl_jax.objectives.base import Aux, Objective, Picture, Probe, View
from ssl_jax.objectives.parts.networks import Bound, Networks
from ssl_jax.objectives.parts.pictures import ROWS, board
from ssl_jax.objectives.parts.tiles import answer, tile_heads

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class Jigsaw(Objective):
    """Prediction of the permutation, one of a fixed set, in which an image's tiles are shuffled.

    Attributes:
      view: crop and augmentation of the whole image, including conversion to grey; the side should
        be a multiple of `rows`.
      rows: the puzzle is a grid of rows x rows cells.
      tile: side of a tile in pixels, cut at random out of its cell: the gap between the tiles keeps
        their edges from revealing the order.
      channel_jitter: largest shift of each colour channel in pixels (2 as released).
      permutations: number of classes (100 to 2000 of the 9!).
      criterion: how the permutations are chosen; see `distant_permutations`.
      puzzles: permutations of each image per step; more than one costs only the head.
      standardize: subtract each tile's mean and divide by its deviation, so that continuous
        brightness does not reveal the order. Disable it if whole images should give similar
        activations.
      embedding: width of a tile's embedding.
      hidden: widths of the classifier's hidden layers.

    Raises:
      UserError: tiles larger than their cells, or more permutations than there are.
    """

    family: ClassVar[str] = "pretext"

    view: OneCrop = View(255, area=(0.7, 1.0), recipe="patches")
    rows: Several = 3
    tile: Count = 64
    channel_jitter: Whole = 0
    permutations: Several = 2000
    criterion: Literal["mean", "min"] = "mean"
    puzzles: Count = 1
    standardize: bool = True
    embedding: Count = 1000
    hidden: tuple[Count, ...] = ()

    # The last stage specialises in positions; the stage before it transfers better.
    probe: ClassVar[Probe] = Probe(stage=-2, pool="grid")

    def __post_init__(self) -> None:
        super().__post_init__()
        cell = self.view.side // max(self.rows, 1)
        if not 1 <= self.tile <= cell:
            raise UserError(
                f"objective.tile: {self.tile} px do not fit the cells of a view of "
                f"{self.view.side} px in {self.rows} rows; use at most {cell}"
            )
        check_count(self.rows**2, self.permutations)

    @cached_property
    def classes(self) -> np.ndarray:
        """(permutations, tiles) int32: slot i of puzzle k shows cell `classes[k, i]`."""
        return distant_permutations(self.rows**2, self.permutations, self.criterion)

    @cached_property
    def networks(self) -> Networks:
        heads = tile_heads(
            self.backbone,
            self.tile,
            self.spec.channels,
            tiles_per_question=self.rows**2,
            classes=self.permutations,
            width=self.embedding,
            hidden=self.hidden,
        )
        return self.backbone_and(**heads)

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images = batch["views"][0][:, 0]
        keys = rng.per_example(key, batch["index"])
        nets = self.networks.bind(params, extra["stats"])
        logits, _, labels = self.solve(nets, images, keys)
        loss = jnp.mean(cross_entropy(logits, labels))
        accuracy = jnp.mean(logits.argmax(-1) == labels)
        return loss, Aux({"stats": nets.stats}, metrics={"accuracy": accuracy})

    def solve(self, nets: Bound, images: Array, keys: Array) -> tuple[Array, Array, Array]:
        """Compute logits (B, puzzles, permutations) of puzzles drawn by `keys` (B,). Also return
        the images' tiles in order (B, tiles, h, w, C) and the right answers (B, puzzles).
        """

        def make(key: Array, image: Array) -> tuple[Array, Array]:
            cut_key, label_key = jax.random.split(key)
            tiles = jigsaw_tiles(cut_key, image, self.rows, self.tile, self.channel_jitter)
            labels = jax.random.randint(label_key, (self.puzzles,), 0, self.permutations, jnp.int32)
            return tiles, labels

        tiles, labels = jax.vmap(make)(keys, images)
        order = jnp.asarray(self.classes)[labels]
        inputs = standardize(tiles) if self.standardize else tiles
        return answer(nets, inputs, order), tiles, labels

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        images = images[:ROWS]
        keys = rng.per_example(key, jnp.arange(len(images)))
        nets = self.networks.bind(params, extra["stats"], train=False)
        logits, tiles, labels = self.solve(nets, images, keys)
        truth, prediction = labels[:, 0], logits[:, 0].argmax(-1).astype(jnp.int32)
        orders = jnp.asarray(self.classes)
        puzzles = jax.vmap(lambda each, at: each[at])(tiles, orders[truth])
        solutions = jax.vmap(lambda each, at: jnp.zeros_like(each).at[at].set(each))(
            puzzles, orders[prediction]
        )
        boards = jnp.stack([board(part, self.rows) for part in (puzzles, solutions, tiles)], axis=1)
        no_answer = jnp.full_like(prediction, -1)
        caption = (
            f"The network sees the tiles of the puzzle and predicts which of {self.permutations} "
            "orders they are in; each tile is then placed by that order."
        )
        return {
            "Solved puzzles": Picture(
                boards,
                caption,
                ("puzzle", "predicted order", "solution"),
                jnp.stack([no_answer, prediction, no_answer], axis=1),
                jnp.stack([no_answer, truth, no_answer], axis=1),
            )
        }


make = Jigsaw.make
