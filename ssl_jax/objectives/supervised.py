"""Supervised learning and fine-tuning: a linear classifier on the backbone, both trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.augment import erasing, mixing
from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import BelowOne, NonNegative, Probability, Whole
from ssl_jax.losses.cross_entropy import soft_cross_entropy
from ssl_jax.losses.multi_label import soft_sigmoid_cross_entropy
from ssl_jax.nets.functional import Net
from ssl_jax.nets.heads import HeadInit, mlp_head
from ssl_jax.objectives.base import Aux, Encoder, Heads, Inputs, Objective, View
from ssl_jax.objectives.parts import average
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.views import fold

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class Supervised(Objective):
    """Classification of the labels. Examples without a label do not count.

    To fine-tune, set `train.init_from` to the run to start from. The head reads the backbone's
    "pooled": `backbone.pool` and `backbone.norm_after_pool` choose it for a ViT, and
    `backbone.drop_path` is its stochastic depth.

    Attributes:
      view: crop and augmentation (count 1).
      labels: largest number of labels of an image, each class being a binary classification of its
        own; an image without labels shows none of the classes. 0 is one label per image.
      label_smoothing: share of the target that is spread over all classes (1512.00567); with
        several labels per image over both answers of each class.
      mixup, cutmix: alpha of their Beta distribution, 0 for none; with both, each batch gets one of
        them, with equal chances.
      erase: probability that a box of an image becomes noise (random erasing, "pixel").
      head_init: initialisation of the classifier's weights.
      average: momentum of an exponential moving average of all weights, which is then evaluated as
        the encoder; 0 for none. Early in training it is smaller, (1 + step) / (10 + step).
    """

    family: ClassVar[str] = "baseline"
    needs: ClassVar[str] = "labels"

    view: OneCrop = View(224, area=(0.08, 1.0), recipe="mae")
    labels: Whole = 0
    label_smoothing: BelowOne = 0.0
    mixup: NonNegative = 0.0
    cutmix: NonNegative = 0.0
    erase: Probability = 0.0
    head_init: HeadInit = "normal0.01"
    average: BelowOne = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.spec.num_classes < 2:
            raise UserError("objective: supervised learning needs labels of at least two classes")

    @cached_property
    def head(self) -> Net:
        return mlp_head(self.feature_dim, (self.spec.num_classes,), init=self.head_init)

    @cached_property
    def networks(self) -> Networks:
        return self.backbone_and(classifier=self.head)

    def inputs(self) -> Inputs:
        return Inputs(views=(self.view,), label=not self.labels, labels=self.labels)

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.networks.init(key)
        return params, {"stats": stats, **average.start(self.average, params, stats)}

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images = fold(batch["views"][0])
        targets = self.target_sets(batch["labels"]) if self.labels else self.targets(batch["label"])
        if self.erase:
            images = self.erase_boxes(images, rng.named(key, "erase"), batch["index"])
        images, targets = self.mix(images, targets, rng.named(key, "mix"))

        options = {}
        if self.backbone.draws:
            options["keys"] = rng.per_example(rng.named(key, "drop_path"), batch["index"])
        nets = self.networks.bind(params, extra["stats"])
        logits = nets.classifier(nets.backbone(images, **options).pooled)
        if self.labels:
            best = jnp.any(batch["labels"] == jnp.argmax(logits, -1)[:, None], axis=-1)
            aux = Aux(dict(extra, stats=nets.stats), metrics={"best_is_a_label": jnp.mean(best)})
            return jnp.mean(soft_sigmoid_cross_entropy(logits, targets)), aux
        share = jnp.sum(targets, axis=-1)  # labelled share of an example: 0, 1, or mixed
        total = jnp.maximum(jnp.sum(share), 1e-6)
        loss = jnp.sum(soft_cross_entropy(logits, targets)) / total
        hits = share * (jnp.argmax(logits, -1) == jnp.argmax(targets, -1))
        return loss, Aux(dict(extra, stats=nets.stats), metrics={"top1": jnp.sum(hits) / total})

    def targets(self, labels: Array) -> Array:
        """Return target probabilities (B, classes), zeros for examples without a label (-1)."""
        classes = self.spec.num_classes
        smooth = self.label_smoothing
        targets = (1 - smooth) * jax.nn.one_hot(labels, classes) + smooth / classes
        return targets * (labels >= 0)[:, None]

    def target_sets(self, labels: Array) -> Array:
        """Return target probabilities (B, classes) of the labels (B, n), -1 for none."""
        shown = jnp.any(labels[:, :, None] == jnp.arange(self.spec.num_classes), axis=1)
        smooth = self.label_smoothing
        return (1 - smooth) * shown.astype(jnp.float32) + smooth / 2

    def erase_boxes(self, images: Array, key: Array, index: Array) -> Array:
        """Replace a box of some of the images (B, H, W, C) by noise N(0, 1) (Zhong et al. 2017)."""

        def erase_image(key: Array, image: Array) -> Array:
            chance, where, noise = jax.random.split(key, 3)
            height, width, _ = image.shape
            box = erasing.inside(erasing.random_box(where, height, width), height, width)
            box = box & (jax.random.uniform(chance) < self.erase)
            pixels = jax.random.normal(noise, image.shape, image.dtype)
            return jnp.where(box[..., None], pixels, image)

        return jax.vmap(erase_image)(rng.per_example(key, index), images)

    def mix(self, images: Array, targets: Array, key: Array) -> tuple[Array, Array]:
        """Apply mixup or CutMix, if enabled, to a batch."""
        if self.mixup and self.cutmix:
            return mixing.mixup_or_cutmix(key, images, targets, self.mixup, self.cutmix)
        if self.mixup:
            return mixing.mixup(key, images, targets, self.mixup)
        if self.cutmix:
            return mixing.cutmix(key, images, targets, self.cutmix)
        return images, targets

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        return params, average.update(self.average, params, extra, step)

    def teacher(self, params: Tree, extra: Tree) -> tuple[Tree, Tree] | None:
        return average.teacher(extra)

    def encoder(self, params: Tree, extra: Tree) -> Encoder:
        """Return the backbone and its classifier, or their average if there is one."""
        params, stats = average.evaluated(params, extra)
        classifier = Heads.of(self.head, params["classifier"])
        return Encoder(params["backbone"], stats["backbone"], self.backbone, classifier=classifier)


make = Supervised.make
