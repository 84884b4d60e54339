"""Background augmentation: swapped backgrounds and background-matched negatives (2103.12719)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax.augment.chains import RECIPES
from ssl_jax.augment.recipes import recipe
from ssl_jax.core import rng
from ssl_jax.core.chain import Background
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import TwoCrops
from ssl_jax.losses.infonce import infonce
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.objectives.base import Aux, Inputs, View
from ssl_jax.objectives.moco_v2 import MoCoV2
from ssl_jax.objectives.parts import queue

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class BackgroundAugmentation(MoCoV2):
    """MoCo v2 with BG_Swaps: the key shows the query's object on another background, and one more
    negative of each query shows another object on the query's background.

    BG_RM and BG_Random need no loss of their own: `background` in the chain of a view applies them
    to any method, and the recipes of this config to MoCo v2, BYOL and SwAV.

    Attributes:
      view: as in `moco_v2`; its chain's `background` replaces that of the key.

    Raises:
      UserError: the chain replaces no background.
    """

    view: TwoCrops = View(
        224, count=2, area=(0.2, 1.0), recipe=replace(RECIPES["moco_v2"], background=Background())
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if recipe(self.view.recipe).background is None:
            raise UserError(
                "objective.view.recipe: expected a chain with a background to swap; set "
                "--config.objective.view.recipe.background.probability=0.2"
            )

    def inputs(self) -> Inputs:
        return replace(super().inputs(), matched=True)

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        views = batch["views"][0]
        nets = self.networks.bind(params, extra["stats"])
        queries = l2_normalize(self.encode(nets, views[:, 0])["projector"], floor="norm")
        example_keys = rng.per_example(key, batch["index"])
        extra, keys = self._keys(extra, views[:, 1], example_keys)
        extra, matched = self._keys(extra, batch["matched"], example_keys)
        rows = infonce(
            queries,
            keys,
            self.temperature,
            jax.lax.stop_gradient(queue.keys(extra["queue"])),
            own=matched,
            similarity=self.similarity,
        )
        fooled = jnp.mean(jnp.sum(queries * (matched - keys), axis=1) > 0)
        # The matched negatives are not enqueued: they are negatives of one query each.
        return jnp.mean(rows), Aux(
            dict(extra, stats=nets.stats), {"keys": keys}, {"nearer_by_background": fooled}
        )

    def _keys(self, extra: Tree, images: Array, example_keys: Array) -> tuple[Tree, Array]:
        """Return `extra` with the key encoder's new statistics, and the unit keys of (B, ...)."""
        encoded, stats = self.encode_keys(extra, images, example_keys)
        return dict(extra, key_stats=stats), l2_normalize(encoded["projector"], floor="norm")


make = BackgroundAugmentation.make
