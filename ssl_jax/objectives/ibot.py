"""iBOT: image BERT pre-training with online tokenizer (2111.07832)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.augment.masks import ibot_mask
from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import NonNegative, Positive, Probability, Several, Whole
from ssl_jax.losses.cross_view import cross_entropies, mean_of_other_views
from ssl_jax.losses.ibot import masked_patch_loss
from ssl_jax.nets.functional import Net, init_all
from ssl_jax.objectives.base import Aux, View
from ssl_jax.objectives.parts.multicrop import apply_views, leading_groups
from ssl_jax.objectives.parts.self_distillation import SelfDistillation
from ssl_jax.objectives.parts.views import fold, unfold

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class IBOT(SelfDistillation):
    """DINO between views, and the same within a view for its patches: some patches of a large crop
    are masked for the student, which predicts the teacher's output for them.

    The backbone is a ViT with `mask_token`. The hyper-parameters of
    `parts.self_distillation.SelfDistillation`, whose temperature is that of the image's target,
    and:

    Attributes:
      mask_ratios, mask_spreads: shares of the patches to hide; see `augment.masks.ibot_mask`.
      mask_blocks: whether blocks are hidden instead of single patches.
      shared_head: whether images and patches share one head, as in the paper.
      patch_temperature: the teacher's temperature for patches, after its warmup.
      image_weight, patch_weight: weights of the two losses.
    """

    family: ClassVar[str] = "masked"
    needs: ClassVar[str] = "a ViT backbone with a mask token"
    decays: ClassVar[str] = r"(cls|mask)_token$"  # the release counts axes, and these have three

    views: tuple[View, ...] = (
        View(224, area=(0.25, 1.0), recipe="dino_1"),
        View(224, area=(0.25, 1.0), recipe="dino_2"),
        View(96, 10, (0.05, 0.25), "dino_local"),
    )
    prototypes: Several = 8192
    temperature: Positive = 0.07
    warmup_epochs: Whole = 30
    mask_ratios: tuple[Probability, ...] = (0.0, 0.3)
    mask_spreads: tuple[Probability, ...] = (0.0, 0.2)
    mask_blocks: bool = True
    shared_head: bool = True
    patch_temperature: Positive = 0.07
    image_weight: NonNegative = 1.0
    patch_weight: NonNegative = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        super().__post_init__()
        if len(self.mask_ratios) != len(self.mask_spreads):
            raise UserError(
                f"objective: {len(self.mask_ratios)} mask_ratios with {len(self.mask_spreads)} "
                "mask_spreads; set one spread per ratio"
            )
        for ratio, spread in zip(self.mask_ratios, self.mask_spreads, strict=True):
            if spread > min(ratio, 1 - ratio):
                raise UserError(
                    f"objective.mask_spreads: {ratio} -+ {spread} leaves [0, 1]; use a spread of "
                    f"at most {min(ratio, 1 - ratio):g}"
                )
        if not self.mask_ratios:
            raise UserError("objective.mask_ratios: expected at least one share, got none")
        if not self.image_weight + self.patch_weight:
            raise UserError("objective: image_weight and patch_weight are both 0; set one of them")

    @cached_property
    def heads(self) -> dict[str, Net]:
        names = ("head",) if self.shared_head else ("head", "patch_head")
        return {name: self.make_head(self.patch_grid[1]) for name in names}

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = init_all(key, backbone=self.backbone, **self.heads)
        return params, self.extra(params, stats, "center", "patch_center")

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        split = leading_groups(self.views, self.large)
        large, small = batch["views"][:split], batch["views"][split:]
        mask = self.masks(key, batch["index"])
        images, patches, stats = self.features(params, extra["stats"], large, mask)
        if small:
            out, stats = apply_views(self.chain(), params, stats, small)
            images = jnp.concatenate([images, out["backbone"]], axis=1)
        images, patches, stats = self.project(params, stats, images, patches)
        teacher, teacher_stats = extra["teacher"], extra["teacher_stats"]
        clean = self.features(teacher, teacher_stats, large, None)
        image_logits, patch_logits, teacher_stats = self.project(teacher, clean[2], *clean[:2])

        targets = self.targets(image_logits, extra["center"], step, self.temperature)
        predicted = images / self.student_temperature
        image_loss = mean_of_other_views(cross_entropies(targets, predicted))
        targets = self.targets(patch_logits, extra["patch_center"], step, self.patch_temperature)
        predicted, hidden = patches / self.student_temperature, mask.reshape(targets.shape[:-1])
        patch_loss = masked_patch_loss(targets, predicted, hidden)

        centers = {
            "center": jnp.mean(image_logits, axis=(0, 1)),
            "patch_center": jnp.mean(patch_logits, axis=(0, 1, 2)),
        }
        extra = dict(extra, stats=stats, teacher_stats=teacher_stats)
        metrics = {"image_loss": image_loss, "patch_loss": patch_loss}
        loss = self.image_weight * image_loss + self.patch_weight * patch_loss
        return loss, Aux(extra, centers, metrics)

    def masks(self, key: Array, index: Array) -> Array:
        """Draw masks (B, large, rows, columns), bool, of the patches to hide from the student."""
        grid = (self.patch_grid[0],) * 2

        def draw(key: Array) -> Array:
            return ibot_mask(key, grid, self.mask_ratios, self.mask_spreads, self.mask_blocks)

        keys = jax.vmap(lambda k: jax.random.split(k, self.large))(rng.per_example(key, index))
        return jax.vmap(jax.vmap(draw))(keys)

    def features(
        self, params: Tree, stats: Tree, groups: Sequence[Array], mask: Array | None
    ) -> tuple[Array, Array, Tree]:
        """Compute features of images (B, G, D) and patches (B, G, N, D), and the new statistics."""
        out, backbone_stats = self.backbone.apply(
            params["backbone"],
            stats["backbone"],
            fold(*groups),
            mask=None if mask is None else fold(mask),
            train=True,
            microbatches=self.microbatches,
        )
        images, patches = (unfold(x, self.large) for x in (out.pooled, out.patches))
        return images, patches, dict(stats, backbone=backbone_stats)

    def project(
        self, params: Tree, stats: Tree, images: Array, patches: Array
    ) -> tuple[Array, Array, Tree]:
        """Compute logits for images (B, V, D) and patches (B, G, N, D), and the new statistics."""
        count, stats = images.shape[1], dict(stats)
        inputs = {"head": images, "patch_head": patches.reshape(len(patches), -1, images.shape[-1])}
        if self.shared_head:  # one pass, one batch norm
            inputs = {"head": jnp.concatenate(list(inputs.values()), axis=1)}
        outs = []
        for name, x in inputs.items():
            out, stats[name] = self.heads[name].apply(params[name], stats[name], x, train=True)
            outs.append(out)
        of_images, of_patches = jnp.split(outs[0], [count], 1) if self.shared_head else outs
        return of_images, of_patches.reshape(*patches.shape[:-1], -1), stats


make = IBOT.make
