"""Context prediction: unsupervised visual representation learning by context (1505.05192)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment.color import drop_channels, project_colors
from ssl_jax.augment.patches import context_patches, standardize
from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, Several, Whole
from ssl_jax.losses.cross_entropy import cross_entropy
from ssl_jax.objectives.base import Aux, Objective, Picture, Probe, View
from ssl_jax.objectives.parts.pictures import ROWS, board
from ssl_jax.objectives.parts.tiles import TileClassifier, tile_classifier

Array = jax.Array
Tree = Any

SIDES = ("↖", "↑", "↗", "←", "→", "↙", "↓", "↘")
# (down, across) of each class, in reading order: the opposite of class k is class 7 - k.
OFFSETS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


def neighbours(rows: int, pairs: Literal["centre", "all"]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (m, 2) int32 of adjacent cells of a rows x rows grid, and the class (m,) int32 of each.

    The class says where the second cell lies as seen from the first. "centre": the first is the
    middle cell of an odd grid; "all": both orders of every two.
    """
    found = [
        (y * rows + x, (y + dy) * rows + x + dx, k)
        for y in range(rows)
        for x in range(rows)
        for k, (dy, dx) in enumerate(OFFSETS)
        if 0 <= y + dy < rows and 0 <= x + dx < rows
    ]
    if pairs == "centre":
        found = [pair for pair in found if pair[0] == rows * rows // 2]
    table = np.array(found, np.int32)
    return table[:, :2], table[:, 2]


@dataclass(frozen=True)
class ContextPrediction(Objective):
    """Of two patches of an image: on which of the eight sides of the first one is the second?

    Attributes:
      view: crop and augmentation of the whole image.
      rows: patches of the grid along a side, odd for `pairs="centre"`.
      patch: side of a patch in pixels.
      gap: pixels between patches: without it an edge that goes on from one to the next tells all.
      jitter: pixels by which each patch is moved at the most.
      pairs: "centre" asks for each outer patch around the middle one (Kolesnikov et al. 2019,
        1901.09005), "all" for every two neighbours in both orders, as the authors' code.
      colors: against colour fringes, which give a patch's place in the lens away. "drop": one
        channel of a patch stays, less its mean, the others are noise; "project": green - magenta is
        taken out; both for images in [0, 1], such as the recipe "none" gives. "keep": all three.
      standardize: subtract each patch's mean and divide by its deviation, against brightness that
        goes on from one to the next. Leave it out where whole images should give like activations.
      embedding: width of a patch's embedding.
      hidden: widths of the classifier's hidden layers.

    Raises:
      UserError: a grid that does not fit the view, or that has no neighbours or no middle.
    """

    family: ClassVar[str] = "pretext"

    view: View = View(255, area=(0.7, 1.0), recipe="patches")
    rows: Several = 3
    patch: Count = 64
    gap: Whole = 21
    jitter: Whole = 10
    pairs: Literal["centre", "all"] = "centre"
    colors: Literal["keep", "drop", "project"] = "keep"
    standardize: bool = True
    embedding: Count = 1000
    hidden: tuple[Count, ...] = (4096,)

    # The last stage turns to positions; what transfers is one stage earlier.
    probe: ClassVar[Probe] = Probe(stage=-2, pool="grid")

    def __post_init__(self) -> None:
        super().__post_init__()
        span = self.rows * self.patch + (self.rows - 1) * self.gap
        if span > self.view.size:
            raise UserError(
                f"objective: {self.rows} patches of {self.patch} px with gaps of {self.gap} px do "
                f"not fit a view of {self.view.size} px; make them smaller"
            )
        if self.pairs == "centre" and self.rows % 2 == 0:
            raise UserError(
                f"objective.rows: a grid of {self.rows} has no middle patch; use 3, or pairs='all'"
            )

    @cached_property
    def questions(self) -> tuple[np.ndarray, np.ndarray]:
        return neighbours(self.rows, self.pairs)

    @cached_property
    def branch(self) -> TileClassifier:
        return tile_classifier(
            self.backbone,
            self.patch,
            self.spec.channels,
            shown=2,
            classes=len(OFFSETS),
            width=self.embedding,
            hidden=self.hidden,
            microbatches=self.microbatches,
        )

    def patches(self, key: Array, image: Array) -> Array:
        """(rows * rows, patch, patch, C): what the net sees of one image (H, W, C)."""
        cut_key, color_key = jax.random.split(key)
        patches = context_patches(cut_key, image, self.rows, self.patch, self.gap, self.jitter)
        if self.colors != "keep" and image.shape[-1] == 3:
            keys = jax.random.split(color_key, len(patches))
            planes = jax.vmap(self._recolored)(keys, jnp.moveaxis(patches, -1, 1))
            patches = jnp.moveaxis(planes, 1, -1)
        return standardize(patches) if self.standardize else patches

    def _recolored(self, key: Array, planes: Array) -> Array:
        """One patch (3, h, w) without what a lens does to its colours."""
        if self.colors == "project":
            return project_colors(planes)
        kept_key, noise_key = jax.random.split(key)
        kept = jax.random.randint(kept_key, (), 0, 3, jnp.int32)
        noise = jax.random.uniform(noise_key, planes.shape, planes.dtype, -0.5, 0.5)
        return drop_channels(planes - planes.mean((1, 2), keepdims=True), kept, noise)

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images = batch["views"][0][:, 0]
        patches = jax.vmap(self.patches)(rng.per_example(key, batch["index"]), images)
        pairs, classes = self.questions
        order = jnp.broadcast_to(pairs, (len(images), *pairs.shape))
        logits, stats = self.branch.apply(params, extra["stats"], patches, order)
        labels = jnp.broadcast_to(classes, logits.shape[:2])
        loss = jnp.mean(cross_entropy(logits, labels))
        accuracy = jnp.mean(logits.argmax(-1) == labels)
        return loss, Aux({"stats": stats}, metrics={"accuracy": accuracy})

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        images = images[:ROWS]
        rows, classes = jnp.arange(len(images)), jnp.asarray(self.questions[1])
        keys = rng.per_example(key, rows)
        patches = jax.vmap(self.patches)(keys, images)
        # Another question for each image.
        asked = rows * (len(classes) // len(images) + 1) % len(classes)
        pairs = jnp.asarray(self.questions[0])[asked]
        logits, _ = self.branch.apply(params, extra["stats"], patches, pairs[:, None], train=False)
        said, truth = logits[:, 0].argmax(-1).astype(jnp.int32), classes[asked]
        first, second = patches[rows, pairs[:, 0]], patches[rows, pairs[:, 1]]
        empty = jnp.zeros((len(images), 9, *patches.shape[2:]), patches.dtype)
        cells = jnp.array([0, 1, 2, 3, 5, 6, 7, 8])  # of a 3 x 3 board, as `OFFSETS`
        placed = [
            board(empty.at[:, 4].set(first).at[rows, cells[side]].set(second), 3)
            for side in (said, truth)
        ]
        nothing = jnp.full_like(said, -1)
        caption = (
            "Two patches of an image as the network is fed them: the first in the middle, the "
            "second on that of the eight sides where the network says it lies."
        )
        return {
            "Predicted places": Picture(
                jnp.stack(placed, axis=1),
                caption,
                ("as answered", "in the image"),
                jnp.stack([said, nothing], axis=1),
                jnp.stack([truth, nothing], axis=1),
                SIDES,
            )
        }


make = ContextPrediction.make
