"""iBOT: image BERT pre-training with online tokenizer (2111.07832)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.augment.masks import ibot_mask
from ssl_jax.core import rng, tree
from ssl_jax.core.errors import UserError
from ssl_jax.losses.cross_view import cross_entropies, mean_of_other_views
from ssl_jax.losses.dino import teacher_probabilities, teacher_temperature
from ssl_jax.losses.ibot import masked_patch_loss
from ssl_jax.nets.functional import Net, output_shapes
from ssl_jax.nets.heads import dino_head
from ssl_jax.objectives.base import Aux, Encoder, Group, Inputs, Objective, View
from ssl_jax.objectives.parts.branch import Branch
from ssl_jax.objectives.parts.ema import cosine_momentum
from ssl_jax.objectives.parts.multicrop import apply_views, leading_groups
from ssl_jax.objectives.parts.views import fold, unfold

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class IBOT(Objective):
    """DINO between the views, and within a view the same for its patches: the student, who sees
    some of them masked, predicts the teacher's output for those. The teacher is what is kept.

    The backbone is a ViT with `mask_token`.

    Attributes:
      views: groups of crops, the large ones first; these are masked.
      large: number of large crops, which the teacher sees.
      mask_ratios, mask_spreads: shares of the patches to hide; see `augment.masks.ibot_mask`.
      mask_blocks: hide blocks, or else single patches.
      prototypes: outputs of the head for images, and of that for patches.
      shared_head: images and patches have one head, as in the paper.
      hidden_dim, bottleneck_dim, norm_last_layer: of the head (`nets.heads.dino_head`).
      freeze_epochs: the last layers do not move so long.
      student_temperature: of the predictions.
      temperature, patch_temperature, warmup_temperature, warmup_epochs: the teacher's; see
        `losses.dino.teacher_temperature`.
      center_momentum: of the running means of the teacher's logits, over images and over patches.
      momentum: of the teacher at step 0; it rises to 1 along a cosine.
      image_weight, patch_weight: of the two losses.
      microbatches: the backbone runs in so many chunks.
    """

    family: ClassVar[str] = "masked"
    needs: ClassVar[str] = "a ViT backbone with a mask token"

    views: tuple[View, ...] = (
        View(224, area=(0.25, 1.0), recipe="dino_1"),
        View(224, area=(0.25, 1.0), recipe="dino_2"),
        View(96, 10, (0.05, 0.25), "dino_local"),
    )
    large: int = 2
    mask_ratios: tuple[float, ...] = (0.0, 0.3)
    mask_spreads: tuple[float, ...] = (0.0, 0.2)
    mask_blocks: bool = True
    prototypes: int = 8192
    shared_head: bool = True
    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    norm_last_layer: bool = True
    freeze_epochs: float = 1.0
    student_temperature: float = 0.1
    temperature: float = 0.07
    patch_temperature: float = 0.07
    warmup_temperature: float = 0.04
    warmup_epochs: int = 30
    center_momentum: float = 0.9
    momentum: float = 0.996
    image_weight: float = 1.0
    patch_weight: float = 1.0
    microbatches: int = 1

    def __post_init__(self) -> None:
        leading_groups(self.views, self.large)
        if len(self.mask_ratios) != len(self.mask_spreads):
            raise UserError(
                f"objective: {len(self.mask_ratios)} mask_ratios with {len(self.mask_spreads)} "
                "mask_spreads; give one spread for each ratio"
            )

    @cached_property
    def shape(self) -> tuple[int, int]:
        """(patches along a side of a large crop, width of the backbone)."""
        size, channels = self.views[0].size, self.spec.channels
        shapes = output_shapes(self.backbone, (size, size, channels))
        if "patches" not in shapes:
            raise UserError("objective: ibot needs a backbone of patches; set backbone.name='vit'")
        patches, width = shapes["patches"]
        return round(patches**0.5), width

    @cached_property
    def heads(self) -> dict[str, Net]:
        names = ("head",) if self.shared_head else ("head", "patch_head")
        make = lambda: dino_head(  # noqa: E731
            self.shape[1],
            self.prototypes,
            hidden_dim=self.hidden_dim,
            bottleneck_dim=self.bottleneck_dim,
            norm_last_layer=self.norm_last_layer,
        )
        return {name: make() for name in names}

    def inputs(self) -> Inputs:
        return Inputs(views=self.views)

    def groups(self) -> dict[str, Group]:
        steps = round(self.freeze_epochs * self.spec.steps_per_epoch)
        return {"last_layer": Group("head/last_layer/", frozen_until=steps)}

    def init(self, key: Array) -> tuple[Tree, Tree]:
        nets = {"backbone": self.backbone, **self.heads}
        made = {name: net.init(rng.named(key, name)) for name, net in nets.items()}
        params, stats = ({k: v[i] for k, v in made.items()} for i in range(2))
        extra = {"stats": stats, "teacher": params, "teacher_stats": stats}
        centers = {
            name: jnp.zeros((self.prototypes,), jnp.float32) for name in ("center", "patch_center")
        }
        return params, extra | centers

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        groups = leading_groups(self.views, self.large)
        large, small = batch["views"][:groups], batch["views"][groups:]
        mask = self.masks(key, batch["index"])
        student, patches, stats = self.large_crops(params, extra["stats"], large, mask)
        if small:
            alone = Branch((("backbone", self.backbone),), self.microbatches)
            out, stats = apply_views(alone, params, stats, small)
            student = jnp.concatenate([student, out["backbone"]], axis=1)
        teacher = extra["teacher"]
        target, patch_target, teacher_stats = self.large_crops(
            teacher, extra["teacher_stats"], large, None
        )

        logits, target_logits = self.project(params, student), self.project(teacher, target)
        targets = teacher_probabilities(
            target_logits, extra["center"], self.at(step, self.temperature)
        )
        predicted = logits / self.student_temperature
        image_loss = mean_of_other_views(cross_entropies(targets, predicted))

        logits = self.project(params, patches, patch=True)
        patch_logits = self.project(teacher, patch_target, patch=True)
        targets = teacher_probabilities(
            patch_logits, extra["patch_center"], self.at(step, self.patch_temperature)
        )
        hidden = mask.reshape(*mask.shape[:2], -1)
        patch_loss = masked_patch_loss(targets, logits / self.student_temperature, hidden)

        centers = {
            "center": jnp.mean(target_logits, axis=(0, 1)),
            "patch_center": jnp.mean(patch_logits, axis=(0, 1, 2)),
        }
        extra = dict(extra, stats=stats, teacher_stats=teacher_stats)
        metrics = {"image_loss": image_loss, "patch_loss": patch_loss}
        loss = self.image_weight * image_loss + self.patch_weight * patch_loss
        return loss, Aux(extra, centers, metrics)

    def masks(self, key: Array, index: Array) -> Array:
        """(B, large, rows, columns) bool: the patches to hide from the student."""
        grid = (self.shape[0], self.shape[0])
        draw = lambda k: ibot_mask(  # noqa: E731
            k, grid, self.mask_ratios, self.mask_spreads, self.mask_blocks
        )
        keys = jax.vmap(lambda k: jax.random.split(k, self.large))(rng.per_example(key, index))
        return jax.vmap(jax.vmap(draw))(keys)

    def large_crops(
        self, params: Tree, stats: Tree, groups: Sequence[Array], mask: Array | None
    ) -> tuple[Array, Array, Tree]:
        """Features of images (B, G, D) and of patches (B, G, N, D), and the new statistics."""
        features, new = self.backbone.apply(
            params["backbone"],
            stats["backbone"],
            fold(*groups),
            mask=None if mask is None else fold(mask),
            train=True,
            microbatches=self.microbatches,
        )
        pooled, patches = (unfold(features[k], self.large) for k in ("pooled", "patches"))
        return pooled, patches, dict(stats, backbone=new)

    def project(self, params: Tree, x: Array, patch: bool = False) -> Array:
        """Logits (..., K) of features (..., D)."""
        name = "patch_head" if patch and not self.shared_head else "head"
        return self.heads[name].apply(params[name], {}, x, train=True)[0]

    def at(self, step: Array, temperature: float) -> Array:
        """The teacher's temperature on its way from `warmup_temperature`."""
        return teacher_temperature(
            step,
            self.spec.steps_per_epoch,
            self.warmup_temperature,
            temperature,
            self.warmup_epochs,
        )

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        momentum = cosine_momentum(step, self.spec.total_steps, self.momentum)
        teacher = tree.ema(extra["teacher"], params, momentum)
        centers = {
            name: tree.ema(extra[name], mean, self.center_momentum)
            for name, mean in signals.items()
        }
        return params, dict(extra, teacher=teacher, **centers)

    def encoder(self, params: Tree, extra: Tree) -> Encoder:
        return Encoder(
            extra["teacher"]["backbone"], extra["teacher_stats"]["backbone"], self.backbone
        )


make = IBOT.make
