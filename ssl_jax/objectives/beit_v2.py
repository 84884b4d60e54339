"""BEiT v2: masked image modeling with vector-quantized visual tokenizers (2208.06366)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax

from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import Count
from ssl_jax.nets.aggregation import SHARED, patch_aggregation
from ssl_jax.objectives.base import Aux, View
from ssl_jax.objectives.beit import BEiT
from ssl_jax.objectives.parts.networks import Bound, Networks
from ssl_jax.objectives.parts.tokenizer import FixedTokenizer

Array = jax.Array
Tree = Any
VQKD = FixedTokenizer({"name": "vit", "size": "base", "pool": "avg"}, code_dim=32, recipe="vqkd")


@dataclass(frozen=True)
class BEiTv2(BEiT):
    """BEiT with the codes of `vqkd`, which are predicted a second time from the class token.

    A few extra blocks read the class token of the last block and the patches of an earlier one
    (`nets.aggregation`). They predict the codes with the same loss, so the class token must
    summarise what the early patches do not yet know. They are dropped afterwards.

    Attributes:
      early_layer: number of the block whose patches the extra blocks read, from 1: 9 of 12 in the
        ViT-B, 21 of 24 in the ViT-L.
      extra_layers: number of extra blocks.
      shared_head: predict from both with one norm and one head; False gives the extra blocks
        their own (`shared_lm_head` of the release).

    Raises:
      UserError: as `BEiT`; a backbone that is no ViT with a class token, or whose last block is not
        after `early_layer`.
    """

    needs: ClassVar[str] = (
        "a ViT backbone with a class and a mask token, a tokenizer (train.teacher_from)"
    )

    view: OneCrop = View(224, area=(0.2, 1.0), recipe="data2vec", interpolation="bicubic")
    tokenizer: FixedTokenizer = VQKD
    early_layer: Count = 9
    extra_layers: Count = 2
    shared_head: bool = True

    @cached_property
    def networks(self) -> Networks:
        head, depth = super().networks.nets["head"], len(self.stage_shapes.stages)
        if self.shapes.cls is None:
            raise UserError("backbone: no class token; use a ViT with cls_token=True")
        if self.early_layer >= depth:
            raise UserError(
                f"objective.early_layer: expected a block before the last of {depth}, got "
                f"{self.early_layer}"
            )
        extra = patch_aggregation(
            self.backbone.config,
            self.extra_layers,
            self.early_layer,
            self.grid,
            own_norm=not self.shared_head,
        )
        # The last block's tokens are read before the last norm.
        raw = self.backbone.like(norm_after_pool=True)
        nets = {"backbone": raw, "extra_blocks": extra, "head": head}
        if not self.shared_head:
            nets["extra_head"] = head
        return Networks(nets, self.microbatches)

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, extra = super().init(key)
        own = {k: v for k, v in params["extra_blocks"].items() if k not in SHARED}
        return dict(params, extra_blocks=own), extra

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        backbone = params["backbone"]
        shared = {name: backbone[name] for name in SHARED if name in backbone}
        params = dict(params, extra_blocks=params["extra_blocks"] | shared)
        return super().loss(params, extra, batch, key, step)

    def predict(self, nets: Bound, images: Array, mask: Array, keys: Array) -> Sequence[Array]:
        draws = {"keys": keys} if self.backbone.draws else {}
        features = nets.backbone(images, mask=mask, stages=True, **draws)
        early = features.stages[self.early_layer - 1].patches
        last, extra = nets.extra_blocks(features.tokens, early)
        return nets.head(last), (nets.head if self.shared_head else nets.extra_head)(extra)


make = BEiTv2.make
