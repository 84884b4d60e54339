"""BEiT: BERT pre-training of image transformers (2106.08254)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core import rng
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import Count, Part
from ssl_jax.losses.cross_entropy import cross_entropy
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import FIXED, Aux, Objective, Probe, View
from ssl_jax.objectives.parts.block_masks import block_masks, hidden_patches
from ssl_jax.objectives.parts.networks import Bound, Networks
from ssl_jax.objectives.parts.tokenizer import FixedTokenizer
from ssl_jax.objectives.parts.views import fold

Array = jax.Array
Tree = Any
DALLE = FixedTokenizer({"name": "dalle"}, size=112, recipe="dalle")


@dataclass(frozen=True)
class BEiT(Objective):
    """The transformer sees an image with blocks of patches hidden, and predicts the codes that a
    tokenizer has for these patches in the whole image.

    The backbone is a ViT with `mask_token`, in the paper with shared relative positions and
    LayerScale. The release renders each crop a second time for the tokenizer, at 112 px; here the
    view is resized.

    Attributes:
      view: crop and augmentation (count 1).
      tokenizer: the tokenizer that `train.teacher_from` names, by default DALL-E's.
      mask_ratio: share of the patches to hide, in blocks (algorithm 1); see
        `augment.masks.block_mask`.
      min_patches: smallest number of patches of a block.

    Raises:
      UserError: a backbone without patches, a tokenizer with another grid, more `min_patches` than
        patches to hide.
    """

    family: ClassVar[str] = "masked"
    needs: ClassVar[str] = "a ViT backbone with a mask token, a tokenizer (train.teacher_from)"
    probe: ClassVar[Probe] = Probe(pool="avg")  # the loss trains the patches
    decays: ClassVar[str] = r"mask_token$"  # the release counts axes, and this has three

    view: OneCrop = View(224, area=(0.08, 1.0), recipe="beit", interpolation="bicubic")
    tokenizer: FixedTokenizer = DALLE
    mask_ratio: Part = 75 / 196
    min_patches: Count = 16

    @cached_property
    def grid(self) -> tuple[int, int]:
        return self.patch_map[:2]

    @cached_property
    def networks(self) -> Networks:
        hidden_patches(self.grid, self.mask_ratio, self.min_patches)  # raises for too large blocks
        width, vocabulary = self.patch_map[2], self.tokenizer.vocabulary
        return self.backbone_and(head=mlp_head(width, (vocabulary,), init="normal0.02"))

    @cached_property
    def fixed_networks(self) -> Networks:
        return self.tokenizer.networks(self.view.sides, self.spec.channels, self.grid)

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images = fold(batch["views"][0])
        keys = rng.per_example(key, batch["index"])
        mask, codes = self.masks(keys), self.codes(extra[FIXED], images)
        nets = self.networks.bind(params, extra["stats"])
        predictions = self.predict(nets, images, mask, keys)
        codes, hidden = codes.reshape(len(codes), -1), mask.reshape(len(mask), -1)
        losses = [mean_of(cross_entropy(logits, codes), hidden) for logits in predictions]
        accuracy = mean_of(jnp.argmax(predictions[0], axis=-1) == codes, hidden)
        return jnp.sum(jnp.stack(losses)), Aux(
            dict(extra, stats=nets.stats), metrics={"code_accuracy": accuracy}
        )

    def masks(self, keys: Array) -> Array:
        """Draw masks (B, rows, columns), bool, of the patches to hide with keys (B,)."""
        return block_masks(keys, self.grid, self.mask_ratio, self.min_patches)

    def codes(self, fixed: Tree, images: Array) -> Array:
        """Return the tokenizer's codes (B, rows, columns) int32 for the whole images."""
        return self.tokenizer.codes(self.fixed_networks, fixed, images, self.view.recipe)

    def predict(self, nets: Bound, images: Array, mask: Array, keys: Array) -> Sequence[Array]:
        """Predict the codes of all patches: logits (B, N, vocabulary), one array per prediction."""
        draws = {"keys": keys} if self.backbone.draws else {}
        return (nets.head(nets.backbone(images, mask=mask, **draws).patches),)


def mean_of(values: Array, hidden: Array) -> Array:
    """Average values (B, N) over the hidden patches of the whole batch."""
    weight = hidden.astype(jnp.float32)
    return jnp.sum(values * weight) / jnp.maximum(jnp.sum(weight), 1)


make = BEiT.make
