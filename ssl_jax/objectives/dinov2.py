"""DINOv2: learning robust visual features without supervision (2304.07193).

With the Gram anchoring of DINOv3 (2508.10104) as an option.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ssl_jax.core import rng, tree
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import (
    Count,
    Interval,
    NonNegative,
    Positive,
    Probability,
    Several,
    Whole,
)
from ssl_jax.losses.cross_entropy import soft_cross_entropy
from ssl_jax.losses.cross_view import cross_entropies, mean_of_other_views
from ssl_jax.losses.dino import balanced_probabilities, teacher_probabilities
from ssl_jax.losses.koleo import koleo
from ssl_jax.nets.heads import dino_head
from ssl_jax.objectives.base import Aux, Encoder, Group, Objective, View
from ssl_jax.objectives.parts import gram_teacher, hidden_patches, self_distillation
from ssl_jax.objectives.parts.ema import cosine_momentum
from ssl_jax.objectives.parts.multicrop import (
    images_and_patches,
    leading_groups,
    multicrop,
    with_keys,
)
from ssl_jax.objectives.parts.networks import Bound, Networks

Array = jax.Array
Tree = Any

CENTERS = ("center", "patch_center")  # in `extra`: running means of the teacher's logits
ITERATIONS = 3  # of Sinkhorn-Knopp


@dataclass(frozen=True)
class DINOv2(Objective):
    """DINO between views and iBOT within them, with two heads, targets that are balanced over the
    batch, and a regulariser that spreads the images' features.

    The backbone is a ViT with `mask_token`. The teacher is the student's slow average and the
    resulting encoder. Only hidden patches pass the head: they are gathered into an array of the
    release's size, the most that can be hidden. Unlike in the release, the frozen last layers have
    no moments (theirs have a rate of 0), and a mask's place does not depend on the device.

    Attributes:
      views: groups of crops, the large ones first.
      large: number of large crops, which the teacher sees.
      prototypes: outputs of the head for images, K.
      patch_prototypes: those of the head for patches; None for one head for both.
      hidden_dim, bottleneck_dim, head_norm: those of the heads; see `nets.heads.dino_head` and
        `dino.DINO`. The prototypes' norms are trained.
      freeze_epochs: epochs for which the heads' last layers are frozen.
      student_temperature: temperature of the predictions.
      temperature, warmup_temperature, warmup_epochs: those of the teacher; the first rises to the
        last on a line, step by step.
      centering: how the teacher's outputs are balanced: by three iterations of Sinkhorn-Knopp, or
        as in DINO by running means.
      center_momentum: momentum of the running means.
      momentum: momentum of the teacher at step 0; it rises to 1 along a cosine.
      mask_share: share of the large crops with a mask.
      mask_ratios: range of the share of their patches to hide; see `masks.stratified_targets`.
      batch_groups: number of groups of consecutive images, the release's devices: shares of masks
        are spread, hidden patches gathered and nearest neighbours searched within each.
      image_weight, patch_weight, koleo_weight: weights of the losses; that of KoLeo is for the sum
        over the large crops.
      gram_weight: weight of Gram anchoring (2 in DINOv3); 0 for none.
      gram_from: step whose teacher becomes the Gram teacher. With 0 it is the network at the start,
        such as that of `train.init_from`.
      gram_start: step from which the loss counts.
      gram_every: steps from `gram_start` on after which the Gram teacher becomes the teacher again.

    Raises:
      UserError: groups that do not divide the batch or are too small, Gram anchoring that starts
        before its teacher.
    """

    family: ClassVar[str] = "masked"
    needs: ClassVar[str] = "a ViT backbone with a mask token"
    least_batch: ClassVar[int] = 2  # KoLeo compares images
    # The release exempts biases, norms and LayerScale only.
    decays: ClassVar[str] = r"((cls|mask)_token|registers|last_layer/g)$"

    views: tuple[View, ...] = (
        View(224, area=(0.32, 1.0), recipe="dino_1", interpolation="bicubic"),
        View(224, area=(0.32, 1.0), recipe="dino_2", interpolation="bicubic"),
        View(98, 8, (0.05, 0.32), "dino_local", interpolation="bicubic"),
    )
    large: Count = 2
    prototypes: Several = 131072
    patch_prototypes: Several | None = 131072
    hidden_dim: Count = 2048
    bottleneck_dim: Count = 384
    head_norm: Literal["batch"] | None = None
    freeze_epochs: NonNegative = 1.0
    student_temperature: Positive = 0.1
    temperature: Positive = 0.07
    warmup_temperature: Positive = 0.04
    warmup_epochs: Whole = 30
    centering: Literal["sinkhorn", "mean"] = "sinkhorn"
    center_momentum: Probability = 0.9
    momentum: Probability = 0.994
    mask_share: Probability = 0.5
    mask_ratios: Interval[Probability] = (0.1, 0.5)
    batch_groups: Count = 1
    image_weight: NonNegative = 1.0
    patch_weight: NonNegative = 1.0
    koleo_weight: NonNegative = 0.1
    gram_weight: NonNegative = 0.0
    gram_from: Whole = 200_000
    gram_start: Whole = 1_000_000
    gram_every: Count = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        leading_groups(self.views, self.large)
        images, rest = divmod(self.spec.global_batch, self.batch_groups)
        if rest or images < 2 or int(images * self.large * self.mask_share) < 1:
            raise UserError(
                f"objective.batch_groups: {self.batch_groups} groups of a batch of "
                f"{self.spec.global_batch}; use a divisor that leaves two or more images and a "
                "mask in each"
            )
        if self.gram_weight and self.gram_from > self.gram_start:
            raise UserError(
                f"objective.gram_start: step {self.gram_start} is before gram_from="
                f"{self.gram_from}; set it to that or later"
            )

    def unused(self) -> Mapping[str, str]:
        """See `core.config.check_used`."""
        none = {} if self.warmup_epochs else dict(self_distillation.NO_WARMUP)
        if self.centering == "sinkhorn":
            none["center_momentum"] = "there is no running mean; set centering='mean'"
        if not self.gram_weight:
            names = ("gram_from", "gram_start", "gram_every")
            none |= dict.fromkeys(names, "there is no Gram anchoring; set gram_weight")
        return none

    @cached_property
    def networks(self) -> Networks:
        side, width = self.patch_grid
        hidden_patches.check_most(side, self.mask_ratios)
        head = partial(
            dino_head,
            width,
            hidden_dim=self.hidden_dim,
            bottleneck_dim=self.bottleneck_dim,
            norm=self.head_norm,
            norm_last_layer=False,
        )
        outputs = {"head": self.prototypes, "patch_head": self.patch_prototypes}
        return self.backbone_and(**{name: head(k) for name, k in outputs.items() if k})

    def groups(self) -> dict[str, Group]:
        return self_distillation.last_layer_group(self.spec, self.freeze_epochs)

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.networks.init(key)
        extra = {"stats": stats, "teacher": params, "teacher_stats": stats}  # starts as the student
        if self.centering == "mean":
            counts = (self.prototypes, self.patch_prototypes or self.prototypes)
            extra |= {name: jnp.zeros((k,)) for name, k in zip(CENTERS, counts, strict=True)}
        if self.gram_weight:
            extra["gram"] = {"backbone": params["backbone"]}
        return params, extra

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        split = leading_groups(self.views, self.large)
        large, small = batch["views"][:split], batch["views"][split:]
        student = self.networks.bind(params, extra["stats"])
        teacher = self.networks.without_drop_path().bind(extra["teacher"], extra["teacher_stats"])
        backbone = student.backbone
        if self.backbone.draws:
            keys = rng.per_example(rng.named(key, "drop_path"), batch["index"])
            backbone = with_keys(backbone, keys)

        masks = self.masks(rng.per_example(key, batch["index"]))
        hidden, weights = hidden_patches.gather_hidden(
            masks, self.batch_groups, self.mask_share, self.mask_ratios
        )
        images, patches = images_and_patches(backbone, large, masks)
        crops = jnp.concatenate([images, multicrop(backbone, small)], 1) if small else images
        predictions = self.predict(student, crops, hidden(patches))
        image_logits, patch_logits = (x / self.student_temperature for x in predictions)
        whole, whole_patches = images_and_patches(teacher.backbone, large)
        logits = self.predict(teacher, whole, hidden(whole_patches))
        image_targets, patch_targets = self.targets(*logits, weights > 0, extra, step)

        image_loss = mean_of_other_views(cross_entropies(image_targets, image_logits))
        patch_loss = jnp.sum(weights * soft_cross_entropy(patch_logits, patch_targets))
        each = [koleo(images[:, g], self.batch_groups) for g in range(self.large)]
        koleo_loss = jnp.sum(jnp.stack(each))
        metrics = {"image_loss": image_loss, "patch_loss": patch_loss, "koleo_loss": koleo_loss}
        loss = self.image_weight * image_loss + self.patch_weight * patch_loss
        loss += self.koleo_weight * koleo_loss
        if self.gram_weight:
            anchor = self.networks.bind(extra["gram"], extra["teacher_stats"], train=False)
            metrics["gram_loss"] = gram_teacher.gram_loss(
                anchor.backbone, large, patches, step >= self.gram_start
            )
            loss += self.gram_weight * metrics["gram_loss"]
        means = map(self_distillation.mean_logits, logits, (None, weights > 0))
        signals = dict(zip(CENTERS, means, strict=True)) if self.centering == "mean" else {}
        extra = dict(extra, stats=student.stats, teacher_stats=teacher.stats)
        return loss, Aux(extra, signals, metrics)

    def masks(self, keys: Array) -> Array:
        """Draw masks (B, large, rows, columns), bool, of the patches to hide with keys (B,)."""
        shares = self.batch_groups, self.mask_share, self.mask_ratios
        return hidden_patches.stratified_masks(keys, self.large, self.patch_grid[0], *shares)

    def predict(self, nets: Bound, images: Array, patches: Array) -> tuple[Array, Array]:
        """Compute logits (..., K) for images and patches."""
        return nets.head(images), (nets.patch_head if self.patch_prototypes else nets.head)(patches)

    def targets(
        self, images: Array, patches: Array, valid: Array, extra: Tree, step: Array
    ) -> tuple[Array, Array]:
        """Balance the teacher's logits over the batch: probabilities for images and for the patches
        that are `valid`.
        """
        temperature = self.teacher_temperature(step)
        if self.centering == "sinkhorn":
            return (
                balanced_probabilities(images, temperature, ITERATIONS),
                balanced_probabilities(patches, temperature, ITERATIONS, valid),
            )
        return (
            teacher_probabilities(images, extra["center"], temperature),
            teacher_probabilities(patches, extra["patch_center"], temperature),
        )

    def teacher_temperature(self, step: Array) -> Array:
        """Return the temperature of the targets at a step."""
        steps = self.warmup_epochs * self.spec.steps_per_epoch
        return self_distillation.teacher_temperature(
            step, 1, self.warmup_temperature, self.temperature, steps
        )

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        momentum = cosine_momentum(step, self.spec.total_steps, self.momentum)
        teacher = tree.ema(extra["teacher"], params, momentum)
        old = {name: extra[name] for name in signals}
        extra = extra | tree.ema(old, signals, self.center_momentum) | {"teacher": teacher}
        if self.gram_weight:
            steps = self.gram_from, self.gram_start, self.gram_every
            extra["gram"] = gram_teacher.renewed(extra["gram"], teacher, step + 1, *steps)
        return params, extra

    def teacher(self, params: Tree, extra: Tree) -> tuple[Tree, Tree] | None:
        return extra["teacher"], extra["teacher_stats"]

    def encoder(self, params: Tree, extra: Tree) -> Encoder:
        head = self.networks.nets["head"]
        return self_distillation.teacher_encoder(self.backbone, head, extra)


make = DINOv2.make
