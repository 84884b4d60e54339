"""RotNet: unsupervised representation learning by predicting image rotations (1803.07728)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ssl_jax.augment import geometric
from ssl_jax.losses.cross_entropy import cross_entropy
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Objective, Picture, Probe, View
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.pictures import ROWS, rotations
from ssl_jax.objectives.parts.views import fold, unfold

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class RotNet(Objective):
    """Prediction of an image's rotation by 0, 90, 180 or 270 degrees; a batch has all four copies.

    Attributes:
      view: crop and augmentation of the upright image. Flips come before the rotation: after it,
        they would make 90 and 270 degrees the same.
      angles: 4, or 2 for 0 and 180 degrees only, an easier problem (table 2 of the paper).
    """

    family: ClassVar[str] = "pretext"

    view: View = View(224, area=(0.08, 1.0), recipe="rotnet")
    angles: Literal[2, 4] = 4

    # The last stage specialises in orientation; the stage before it transfers better.
    probe: ClassVar[Probe] = Probe(stage=-2, pool="grid")

    @cached_property
    def networks(self) -> Networks:
        return self.backbone_and(classifier=mlp_head(self.feature_dim, (self.angles,)))

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        upright = fold(batch["views"][0])
        turned = self.rotate(upright)
        nets = self.networks.bind(params, extra["stats"])
        logits = nets.classifier(nets.backbone(fold(turned)).pooled)
        turns = jnp.tile(jnp.arange(self.angles), upright.shape[0])
        accuracy = jnp.mean(logits.argmax(-1) == turns)
        loss = jnp.mean(cross_entropy(logits, turns))
        return loss, Aux({"stats": nets.stats}, metrics={"accuracy": accuracy})

    def rotate(self, upright: Array) -> Array:
        """Rotate square images (B, H, W, C) by all angles: (B, angles, H, W, C)."""
        self.view.check_square()
        return geometric.rotations(upright)[:, :: 4 // self.angles]

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        turned = self.rotate(images[:ROWS])
        nets = self.networks.bind(params, extra["stats"], train=False)
        logits = nets.classifier(nets.backbone(fold(turned)).pooled)
        return {"Predicted rotations": rotations(turned, unfold(logits, self.angles))}


make = RotNet.make
