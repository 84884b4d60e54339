"""iBOT: image BERT pre-training with online tokenizer (2111.07832)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ssl_jax.core import rng, tree
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, NonNegative, Positive, Probability, Several, Whole
from ssl_jax.losses.cross_view import cross_entropies, mean_of_other_views
from ssl_jax.losses.dino import teacher_probabilities
from ssl_jax.losses.masked import masked_patch_loss
from ssl_jax.nets.heads import dino_head
from ssl_jax.objectives.base import Aux, Encoder, Group, Objective, View
from ssl_jax.objectives.parts import hidden_patches, self_distillation
from ssl_jax.objectives.parts.ema import cosine_momentum
from ssl_jax.objectives.parts.multicrop import images_and_patches, leading_groups, multicrop
from ssl_jax.objectives.parts.networks import Bound, Networks

Array = jax.Array
Tree = Any

CENTERS = ("center", "patch_center")  # in `extra`: running means of the teacher's logits


@dataclass(frozen=True)
class IBOT(Objective):
    """DINO between views, and the same within a view for its patches: some patches of a large crop
    are masked for the student, which predicts the teacher's output for them.

    The backbone is a ViT with `mask_token`. The teacher is the student's slow average and the
    resulting encoder.

    Attributes:
      views: groups of crops, the large ones first.
      large: number of large crops, which the teacher sees.
      prototypes: outputs of the head, K.
      hidden_dim, bottleneck_dim, head_norm, norm_last_layer: those of the head; see
        `nets.heads.dino_head` and `dino.DINO`.
      freeze_epochs: epochs for which the heads' last layers are frozen.
      student_temperature: temperature of the predictions.
      temperature, warmup_temperature, warmup_epochs: those of the teacher for images; see
        `parts.self_distillation.teacher_temperature`.
      center_momentum: momentum of the running means of the teacher's logits, one for images and one
        for patches.
      momentum: momentum of the teacher at step 0; it rises to 1 along a cosine.
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
        View(224, area=(0.25, 1.0), recipe="dino_1", interpolation="bicubic"),
        View(224, area=(0.25, 1.0), recipe="dino_2", interpolation="bicubic"),
        View(96, 10, (0.05, 0.25), "dino_local", interpolation="bicubic"),
    )
    large: Count = 2
    prototypes: Several = 8192
    hidden_dim: Count = 2048
    bottleneck_dim: Count = 256
    head_norm: Literal["batch"] | None = None
    norm_last_layer: bool = True
    freeze_epochs: NonNegative = 1.0
    student_temperature: Positive = 0.1
    temperature: Positive = 0.07
    warmup_temperature: Positive = 0.04
    warmup_epochs: Whole = 30
    center_momentum: Probability = 0.9
    momentum: Probability = 0.996
    mask_ratios: tuple[Probability, ...] = (0.0, 0.3)
    mask_spreads: tuple[Probability, ...] = (0.0, 0.2)
    mask_blocks: bool = True
    shared_head: bool = True
    patch_temperature: Positive = 0.07
    image_weight: NonNegative = 1.0
    patch_weight: NonNegative = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        leading_groups(self.views, self.large)
        hidden_patches.check_spreads(self.mask_ratios, self.mask_spreads)
        if not self.image_weight + self.patch_weight:
            raise UserError("objective: image_weight and patch_weight are both 0; set one of them")

    def unused(self) -> Mapping[str, str]:
        """See `core.config.check_used`."""
        return {} if self.warmup_epochs else self_distillation.NO_WARMUP

    @cached_property
    def networks(self) -> Networks:
        head = partial(
            dino_head,
            self.patch_grid[1],
            self.prototypes,
            hidden_dim=self.hidden_dim,
            bottleneck_dim=self.bottleneck_dim,
            norm=self.head_norm,
            norm_last_layer=self.norm_last_layer,
        )
        names = ("head",) if self.shared_head else ("head", "patch_head")
        return self.backbone_and(**{name: head() for name in names})

    def groups(self) -> dict[str, Group]:
        return self_distillation.last_layer_group(self.spec, self.freeze_epochs)

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.networks.init(key)
        teacher = {"teacher": params, "teacher_stats": stats}  # starts as the student
        centers = {name: jnp.zeros((self.prototypes,), jnp.float32) for name in CENTERS}
        return params, {"stats": stats, **teacher, **centers}

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        split = leading_groups(self.views, self.large)
        large, small = batch["views"][:split], batch["views"][split:]
        masks = self.masks(rng.per_example(key, batch["index"]))
        student = self.networks.bind(params, extra["stats"])
        teacher = self.networks.bind(extra["teacher"], extra["teacher_stats"])

        images, patches = images_and_patches(student.backbone, large, masks)
        if small:
            images = jnp.concatenate([images, multicrop(student.backbone, small)], axis=1)
        predictions = self.predict(student, images, patches)
        image_logits, patch_logits = (x / self.student_temperature for x in predictions)
        logits = self.predict(teacher, *images_and_patches(teacher.backbone, large))
        image_targets, patch_targets = self.targets(*logits, extra, step)

        image_loss = mean_of_other_views(cross_entropies(image_targets, image_logits))
        hidden = masks.reshape(patch_targets.shape[:-1])
        patch_loss = masked_patch_loss(patch_targets, patch_logits, hidden)
        loss = self.image_weight * image_loss + self.patch_weight * patch_loss

        centers = dict(zip(CENTERS, map(self_distillation.mean_logits, logits), strict=True))
        extra = dict(extra, stats=student.stats, teacher_stats=teacher.stats)
        metrics = {"image_loss": image_loss, "patch_loss": patch_loss}
        return loss, Aux(extra, centers, metrics)

    def masks(self, keys: Array) -> Array:
        """Draw masks (B, large, rows, columns), bool, of the patches to hide from the student."""
        shares = self.mask_ratios, self.mask_spreads, self.mask_blocks
        return hidden_patches.random_masks(keys, self.large, self.patch_grid[0], *shares)

    def predict(self, nets: Bound, images: Array, patches: Array) -> tuple[Array, Array]:
        """Compute logits (..., K) for images (B, V, D) and patches (B, G, N, D)."""
        if not self.shared_head:
            return nets.head(images), nets.patch_head(patches)
        rows = patches.reshape(len(patches), -1, patches.shape[-1])
        logits = nets.head(jnp.concatenate([images, rows], axis=1))  # one pass, one batch norm
        of_images, of_patches = jnp.split(logits, [images.shape[1]], axis=1)
        return of_images, of_patches.reshape(*patches.shape[:-1], -1)

    def targets(
        self, images: Array, patches: Array, extra: Tree, step: Array
    ) -> tuple[Array, Array]:
        """Compute the probabilities of the teacher's logits, with the centre and the temperature of
        images and of patches.
        """
        image_temperature, patch_temperature = (
            self_distillation.teacher_temperature(
                step, self.spec.steps_per_epoch, self.warmup_temperature, end, self.warmup_epochs
            )
            for end in (self.temperature, self.patch_temperature)
        )
        return (
            teacher_probabilities(images, extra["center"], image_temperature),
            teacher_probabilities(patches, extra["patch_center"], patch_temperature),
        )

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        momentum = cosine_momentum(step, self.spec.total_steps, self.momentum)
        teacher = tree.ema(extra["teacher"], params, momentum)
        old = {name: extra[name] for name in signals}
        centers = tree.ema(old, signals, self.center_momentum)
        return params, extra | centers | {"teacher": teacher}

    def teacher(self, params: Tree, extra: Tree) -> tuple[Tree, Tree] | None:
        return extra["teacher"], extra["teacher_stats"]

    def encoder(self, params: Tree, extra: Tree) -> Encoder:
        head = self.networks.nets["head"]
        return self_distillation.teacher_encoder(self.backbone, head, extra)


make = IBOT.make
