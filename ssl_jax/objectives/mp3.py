"""MP3: position prediction as an effective pretraining strategy (2207.07611)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import BelowOne
from ssl_jax.losses.cross_entropy import cross_entropy
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Objective, Picture, Probe, View
from ssl_jax.objectives.parts.networks import Bound, Networks
from ssl_jax.objectives.parts.pictures import ROWS, from_matches, hide
from ssl_jax.objectives.parts.views import fold

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class MP3(Objective):
    """Prediction of the place of every patch by a ViT without positions, in which all patches
    attend to a random few of them: the same ones in every block.

    Attributes:
      view: crop and augmentation (count 1).
      mask_ratio: share of the patches that none attends to; at least one stays.

    Raises:
      UserError: a backbone without patches, or with positions.
    """

    family: ClassVar[str] = "pretext"
    needs: ClassVar[str] = "a ViT backbone without positions"
    # The loss trains the patches; a class token only as far as they attend to it.
    probe: ClassVar[Probe] = Probe(pool="avg")

    view: OneCrop = View(224, area=(0.08, 1.0), recipe="mae")
    mask_ratio: BelowOne = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        position = getattr(self.backbone.config, "position", "none")
        if position != "none":
            raise UserError(
                f"backbone.position: {position!r} gives the answer away; set "
                "backbone.position='none'"
            )

    @property
    def count(self) -> int:
        """Number of patches, which is that of places."""
        return self.patch_grid[0] ** 2

    @cached_property
    def networks(self) -> Networks:
        return self.backbone_and(place=mlp_head(self.patch_grid[1], (self.count,)))

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images = fold(batch["views"][0])
        visible = self.context(rng.per_example(key, batch["index"]))
        nets = self.networks.bind(params, extra["stats"])
        logits = self.predict(nets, images, visible)
        places = jnp.broadcast_to(jnp.arange(self.count), logits.shape[:2])
        loss = jnp.mean(cross_entropy(logits, places))
        accuracy = jnp.mean(logits.argmax(-1) == places)
        return loss, Aux({"stats": nets.stats}, metrics={"accuracy": accuracy})

    def context(self, keys: Array) -> Array:
        """Draw the patches that all attend to with keys (B,), (B, N) bool."""
        size = max(round((1 - self.mask_ratio) * self.count), 1)
        order = jax.vmap(lambda k: jax.random.permutation(k, self.count))(keys)
        return order < size

    def predict(self, nets: Bound, images: Array, visible: Array) -> Array:
        """Compute logits (B, N, N) of every patch's place. A class token is always visible."""
        tokens = self.shapes.tokens
        assert tokens is not None
        first = tokens.shape[0] - self.count
        visible = jnp.pad(visible, ((0, 0), (first, 0)), constant_values=True)
        patches = nets.backbone(images, visible=visible).patches
        return nets.place(patches)

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        images, side = images[:ROWS], self.patch_grid[0]
        visible = self.context(rng.per_example(key, jnp.arange(len(images))))
        nets = self.networks.bind(params, extra["stats"], train=False)
        places = jax.nn.log_softmax(self.predict(nets, images, visible))
        placed = from_matches(images, places.argmax(1), (side, side))
        caption = (
            "All patches attend to those in the second column, without knowing where any of them "
            "lies. In the third, each place has the patch that the network puts there most surely: "
            "the image, if all places are predicted rightly."
        )
        columns = ("image", "attended patches", "by predicted places")
        rows = jnp.stack([images, hide(images, 1 - visible.astype(images.dtype)), placed], axis=1)
        return {"Predicted places": Picture(rows, caption, columns)}


make = MP3.make
