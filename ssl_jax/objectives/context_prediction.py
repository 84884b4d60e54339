"""Context prediction: unsupervised visual representation learning by context (1505.05192)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment.color import drop_random_channels, project_colors
from ssl_jax.augment.patches import OFFSETS, context_patches, neighbours, standardize
from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import Count, Several, Whole
from ssl_jax.losses.cross_entropy import cross_entropy
from ssl_jax.objectives.base import Aux, Objective, Picture, Probe, View
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.pictures import ROWS, placements
from ssl_jax.objectives.parts.tiles import answer, tile_heads

Array = jax.Array
Tree = Any

SIDES = ("↖", "↑", "↗", "←", "→", "↙", "↓", "↘")  # names of the classes, as `OFFSETS`


@dataclass(frozen=True)
class ContextPrediction(Objective):
    """Prediction of which of the eight neighbours of a patch another patch of the image is.

    Attributes:
      view: crop and augmentation of the whole image.
      rows: patches along a side of the grid, odd for `pairs="centre"`.
      patch: side of a patch in pixels.
      gap: pixels between patches, so that continuous edges do not reveal the answer.
      jitter: largest shift of each patch in pixels.
      pairs: "centre" uses each outer patch with the middle one (Kolesnikov et al. 2019,
        1901.09005), "all" every two neighbours in both orders, as the authors' code.
      colors: protection against colour fringes, which reveal a patch's place in the lens. "drop"
        keeps one channel of a patch, less its mean, and replaces the others by noise; "project"
        removes green - magenta; both are for images in [0, 1], as from the recipe "none". "keep"
        keeps all three.
      standardize: subtract each patch's mean and divide by its deviation, so that continuous
        brightness does not reveal the answer. Disable it if whole images should give similar
        activations.
      embedding: width of a patch's embedding.
      hidden: widths of the classifier's hidden layers.

    Raises:
      UserError: a grid that does not fit the view, or that has no neighbours or no middle.
    """

    family: ClassVar[str] = "pretext"

    view: OneCrop = View(255, area=(0.7, 1.0), recipe="patches")
    rows: Several = 3
    patch: Count = 64
    gap: Whole = 21
    jitter: Whole = 10
    pairs: Literal["centre", "all"] = "centre"
    colors: Literal["keep", "drop", "project"] = "keep"
    standardize: bool = True
    embedding: Count = 1000
    hidden: tuple[Count, ...] = (4096,)

    # The last stage specialises in positions; the stage before it transfers better.
    probe: ClassVar[Probe] = Probe(stage=-2, pool="grid")

    def __post_init__(self) -> None:
        super().__post_init__()
        span = self.rows * self.patch + (self.rows - 1) * self.gap
        if span > self.view.side:
            raise UserError(
                f"objective: {self.rows} patches of {self.patch} px with gaps of {self.gap} px do "
                f"not fit a view of {self.view.side} px; make them smaller"
            )
        if self.pairs == "centre" and self.rows % 2 == 0:
            raise UserError(
                f"objective.rows: a grid of {self.rows} has no middle patch; use 3, or pairs='all'"
            )

    @cached_property
    def questions(self) -> tuple[np.ndarray, np.ndarray]:
        return neighbours(self.rows, self.pairs)

    @cached_property
    def networks(self) -> Networks:
        heads = tile_heads(
            self.backbone,
            self.patch,
            self.spec.channels,
            tiles_per_question=2,
            classes=len(OFFSETS),
            width=self.embedding,
            hidden=self.hidden,
        )
        return self.backbone_and(**heads)

    def patches(self, key: Array, image: Array) -> Array:
        """Cut the network's inputs (rows * rows, patch, patch, C) from one image (H, W, C)."""
        cut_key, color_key = jax.random.split(key)
        patches = context_patches(cut_key, image, self.rows, self.patch, self.gap, self.jitter)
        if self.colors != "keep" and image.shape[-1] == 3:
            planes = jnp.moveaxis(patches, -1, 1)
            if self.colors == "project":
                planes = jax.vmap(project_colors)(planes)
            else:
                keys = jax.random.split(color_key, len(planes))
                planes = jax.vmap(drop_random_channels)(keys, planes)
            patches = jnp.moveaxis(planes, 1, -1)
        return standardize(patches) if self.standardize else patches

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images = batch["views"][0][:, 0]
        patches = jax.vmap(self.patches)(rng.per_example(key, batch["index"]), images)
        pairs, classes = self.questions
        order = jnp.broadcast_to(pairs, (len(images), *pairs.shape))
        nets = self.networks.bind(params, extra["stats"])
        logits = answer(nets, patches, order)
        labels = jnp.broadcast_to(classes, logits.shape[:2])
        loss = jnp.mean(cross_entropy(logits, labels))
        accuracy = jnp.mean(logits.argmax(-1) == labels)
        return loss, Aux({"stats": nets.stats}, metrics={"accuracy": accuracy})

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        images = images[:ROWS]
        rows, classes = jnp.arange(len(images)), jnp.asarray(self.questions[1])
        keys = rng.per_example(key, rows)
        patches = jax.vmap(self.patches)(keys, images)
        # A different pair for each image.
        selected = rows * (len(classes) // len(images) + 1) % len(classes)
        pairs = jnp.asarray(self.questions[0])[selected]
        nets = self.networks.bind(params, extra["stats"], train=False)
        logits = answer(nets, patches, pairs[:, None])
        prediction, truth = logits[:, 0].argmax(-1).astype(jnp.int32), classes[selected]
        first, second = patches[rows, pairs[:, 0]], patches[rows, pairs[:, 1]]
        boards = [placements(first, second, places) for places in (prediction, truth)]
        no_answer = jnp.full_like(prediction, -1)
        caption = (
            "Two patches of an image as the network sees them: the first in the middle, the second "
            "at the one of the eight places that the network predicts."
        )
        return {
            "Predicted places": Picture(
                jnp.stack(boards, axis=1),
                caption,
                ("predicted", "in the image"),
                jnp.stack([prediction, no_answer], axis=1),
                jnp.stack([truth, no_answer], axis=1),
                SIDES,
            )
        }


make = ContextPrediction.make
