"""CPC: representation learning with contrastive predictive coding (1807.03748), for images."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ssl_jax.augment import recipes
from ssl_jax.augment.patches import cut, overlapping
from ssl_jax.core import rng
from ssl_jax.core.chain import Chain
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import Count, Whole
from ssl_jax.losses.cpc import cpc
from ssl_jax.losses.large_batch.similarity import Similarity
from ssl_jax.nets.functional import Net
from ssl_jax.nets.heads import mlp_head
from ssl_jax.nets.row_context import gated_rows
from ssl_jax.objectives.base import Aux, Objective, View
from ssl_jax.objectives.parts.networks import Bound, Networks
from ssl_jax.objectives.parts.views import fold

Array = jax.Array
Tree = Any

Direction = Literal["down", "left", "up", "right"]
# Quarter turns of the grid, counter-clockwise, after which the direction is down.
TURNS: Mapping[Direction, int] = {"down": 0, "left": 1, "up": 2, "right": 3}
NONE = recipes.recipe("none")
UNIT = ((0.0,), (1.0,), "rgb")  # mean, deviation and space of a chain that does not normalise


@dataclass(frozen=True)
class CPC(Objective):
    """Prediction of the patches further down an image from those above, each among the patches of
    all images of the global batch.

    The backbone embeds each patch of an overlapping grid by itself; whole images, as probes read
    them, go through it like a large patch. A context network summarises a row and the rows above.

    Attributes:
      view: crop and augmentation of the whole image (count 1). The paper's images are all grey;
        here two in three are, because probes read colours.
      patch: side of a patch in pixels.
      stride: pixels from one patch to the next.
      border: pixels of a patch's side that are hidden: a random square of `patch - border` pixels
        remains, with zeros around it.
      patch_recipe: chain that augments each patch by itself, before the border is hidden; by
        default nothing. The chain of `view` comes first, for the whole image, and both leave
        values in [0, 1], as probes see the chain of `view` alone.
      offsets: how many rows further down the predicted patches are; an offset that is repeated
        counts as often.
      directions: where the predicted patches are; each direction has its own context network and
        predictors. The paper has "down" alone.
      layers: layers of the context network, each of which sees one row further up.
      similarity: whether the loss holds the scores of all pairs of patches; see
        `losses.large_batch.similarity`.

    Raises:
      UserError: a view of several crops, a grid that the offsets leave, no offset or direction, a
        direction twice, or a chain for patches beside one that normalises.
    """

    family: ClassVar[str] = "contrastive"
    needs: ClassVar[str] = "a network for images of any size, without batch norm"

    view: OneCrop = View(256, area=(0.73, 0.73), recipe="patches")
    patch: Count = 64
    stride: Count = 32
    border: Whole = 4
    patch_recipe: Chain = "none"
    offsets: tuple[Count, ...] = (1, 2, 3, 4, 5)
    directions: tuple[Direction, ...] = ("down",)
    layers: Count = 4
    similarity: Similarity = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.border >= self.patch:
            raise UserError(
                f"objective.border: {self.border} px hide a patch of {self.patch} px; use fewer"
            )
        chain, whole = (recipes.recipe(each) for each in (self.patch_recipe, self.view.recipe))
        if chain != NONE and {(c.mean, c.std, c.space) for c in (chain, whole)} != {UNIT}:
            raise UserError(
                "objective.patch_recipe: it changes images in [0, 1], as probes read them after "
                "view.recipe; set mean=(0,), std=(1,) and space='rgb' in both"
            )
        if not self.offsets or max(self.offsets) >= self.rows:
            raise UserError(
                f"objective.offsets: expected some of 1 .. {self.rows - 1} for patches of "
                f"{self.patch} px, {self.stride} px apart, in a view of {self.view.side} px: "
                f"{self.rows} rows; got {self.offsets}"
            )
        if not self.directions or len(set(self.directions)) < len(self.directions):
            raise UserError(
                f"objective.directions: expected each of {', '.join(TURNS)} at most once, and one "
                f"at least, got {self.directions}"
            )

    @property
    def rows(self) -> int:
        """Number of patches along a side of the grid."""
        return max((self.view.side - self.patch) // self.stride + 1, 0)

    @cached_property
    def networks(self) -> Networks:
        each = [(name, self.directed_networks()) for name in self.directions]
        directed = {f"{part}_{name}": net for name, nets in each for part, net in nets.items()}
        return self.backbone_and(**directed)

    def directed_networks(self) -> dict[str, Net]:
        """Build the "context" network and the "predictor" (W_k for each offset) of a direction."""
        dim = self.feature_dim
        predictor = mlp_head(dim, (len(self.offsets) * dim,), last_bias=False)
        return {"context": gated_rows(dim, self.layers), "predictor": predictor}

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images, keys = batch["views"][0][:, 0], rng.per_example(key, batch["index"])
        nets = self.networks.bind(params, extra["stats"])
        latents = nets.backbone(fold(jax.vmap(self.patches)(keys, images))).pooled
        grid = latents.reshape(len(images), self.rows, self.rows, -1)
        targets = self.targets(nets, grid)
        losses = [
            self.contrast(prediction, jnp.rot90(targets, TURNS[name], (1, 2)), offset)
            for name in self.directions
            for offset, prediction in zip(self.offsets, self.predict(nets, grid, name), strict=True)
        ]
        loss = sum(losses[1:], losses[0])
        # A lower bound on the mutual information of context and patch, in nats (section 2.3).
        information = jnp.log(len(latents)) - loss / len(losses)
        return loss, Aux({"stats": nets.stats}, metrics={"information": information})

    def patches(self, key: Array, image: Array) -> Array:
        """Cut one image (H, W, C) into distorted patches (rows * rows, patch, patch, C)."""
        patches = overlapping(image, self.patch, self.stride)
        return jax.vmap(self.distort)(jax.random.split(key, len(patches)), patches)

    def distort(self, key: Array, patch: Array) -> Array:
        """Augment a patch (patch, patch, C) and hide its border."""
        chain = recipes.recipe(self.patch_recipe)
        if chain != NONE:
            patch = recipes.apply(chain, rng.named(key, "chain"), patch)
        if not self.border:
            return patch
        corner = jax.random.randint(key, (1, 2), 0, self.border + 1, jnp.int32)
        square = cut(patch, corner, self.patch - self.border)[0]
        before = self.border // 2
        sides = (before, self.border - before)
        return jnp.pad(square, (sides, sides, (0, 0)))

    def targets(self, nets: Bound, grid: Array) -> Array:
        """Return what is predicted of the latents (B, rows, rows, D): the latents themselves."""
        return grid

    def predict(self, nets: Bound, grid: Array, direction: Direction) -> list[Array]:
        """Predict the targets of each offset, (B, rows, rows, d), on the grid that is turned until
        `direction` is down.
        """
        context, predictor = (
            getattr(nets, f"{part}_{direction}") for part in ("context", "predictor")
        )
        turned = jnp.rot90(grid, TURNS[direction], (1, 2))
        return jnp.split(predictor(context(turned)), len(self.offsets), axis=-1)

    def contrast(self, prediction: Array, target: Array, offset: int) -> Array:
        """Compute the mean loss of the predictions of one offset."""
        return jnp.mean(cpc(prediction, target, offset, similarity=self.similarity))


make = CPC.make
