"""S4L: self-supervised semi-supervised learning (1905.03670)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ssl_jax.augment import geometric
from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import BelowOne, Count, NonNegative, Positive
from ssl_jax.losses.cross_entropy import cross_entropy, labelled_mean
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.losses.triplet import batch_hard
from ssl_jax.losses.vat import entropy, virtual_adversarial
from ssl_jax.nets.functional import Net
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Encoder, Heads, Inputs, Objective, Picture, View
from ssl_jax.objectives.parts import average
from ssl_jax.objectives.parts.networks import Bound, Networks
from ssl_jax.objectives.parts.pictures import ROWS, rotations
from ssl_jax.objectives.parts.views import fold, unfold, with_hsv_noise

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class S4L(Objective):
    """Classification of a few labelled images, and a pretext task on these and on many without.

    The training set is the labelled one, so that epochs are its epochs; `data.streams.unlabelled`
    is the other one. Both pass the network together, with common batch statistics.

    Attributes:
      view: crop and augmentation of both; for "exemplar", `view.count` crops per image.
      task: "rotation" shows every image in four rotations; "exemplar" compares crops by batch-hard
        triplets with a soft margin; "none" for VAT or entropy alone.
      weight: weight of the task, averaged over the two sets.
      label_weight: weight of the classification.
      color_noise: random changes of hue, saturation and value (of Exemplar-CNN) after the chain.
      embedding: width of the triplets' embedding.
      identities: which rows of the triplets are one image. "released" exchanges images and copies
        as the code does (exemplar.py calls do_triplet with its arguments swapped), which is right
        only if there are as many copies as images.
      vat: weight of the divergence between the predictions for unlabelled images and for their
        virtual adversarial versions (0.5 in the paper).
      epsilon: length of the adversarial change, in units of the normalised images.
      vat_step: 0 finds its direction by an exact Hessian-vector product; a number is the step of
        the finite difference in the released code (1e-6, see `losses.vat.adversarial_direction`).
      vat_labelled: apply VAT and the entropy to the labelled images too.
      entropy: weight of the predictions' entropy (1 in the paper's VAT + EntMin).
      average: momentum of an average of all weights that is evaluated in their place, as in MOAM;
        0 for none. Early in training it is smaller, (1 + step) / (10 + step).
    """

    family: ClassVar[str] = "pretext"
    needs: ClassVar[str] = "labels, and a second set without"
    least_batch: ClassVar[int] = 2

    view: View = View(224, area=(0.08, 1.0), recipe="s4l")
    task: Literal["rotation", "exemplar", "none"] = "rotation"
    weight: NonNegative = 1.0
    label_weight: NonNegative = 1.0
    color_noise: bool = False
    embedding: Count = 1000
    identities: Literal["images", "released"] = "images"
    vat: NonNegative = 0.0
    epsilon: Positive = 40.0
    vat_step: NonNegative = 0.0
    vat_labelled: bool = False
    entropy: NonNegative = 0.0
    average: BelowOne = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.spec.num_classes < 2:
            raise UserError("objective: this method needs labels of at least two classes")
        if (self.view.count > 1) != (self.task == "exemplar"):
            expected = "2 or more crops" if self.task == "exemplar" else "one crop"
            raise UserError(
                f"objective.view.count: task={self.task!r} needs {expected} per image, got "
                f"{self.view.count}"
            )
        if self.task == "none" and not self.vat and not self.entropy:
            raise UserError(
                "objective.task: unlabelled images teach nothing; set a task, vat or entropy"
            )

    def inputs(self) -> Inputs:
        unlabelled = ("unlabelled", Inputs((self.view,)))
        return Inputs((self.view,), label=True, streams=(unlabelled,))

    @cached_property
    def classes(self) -> Net:
        return mlp_head(self.feature_dim, (self.spec.num_classes,))

    @cached_property
    def networks(self) -> Networks:
        widths = {"rotation": (4,), "exemplar": (self.embedding,), "none": ()}[self.task]
        task = {self.task: mlp_head(self.feature_dim, widths)} if widths else {}
        return self.backbone_and(classes=self.classes, **task)

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.networks.init(key)
        return params, {"stats": stats, **average.start(self.average, params, stats)}

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        labelled = self.copies(batch, rng.named(key, "labelled"))  # (B, m, H, W, C)
        unlabelled = self.copies(batch["unlabelled"], rng.named(key, "unlabelled"))
        nets = self.networks.bind(params, extra["stats"])
        both = nets.backbone(fold(labelled, unlabelled)).pooled
        features = unfold(both, 2 * labelled.shape[1])
        first, second = jnp.split(features, 2, axis=1)
        loss, metrics = self.learn(nets, first, second, batch["label"])
        if self.vat or self.entropy:
            images, index = unlabelled[:, :1], batch["unlabelled"]["index"][:, None]
            if self.vat_labelled:
                images = jnp.concatenate([labelled[:, :1], images], axis=1)
                index = jnp.concatenate([batch["index"][:, None], index], axis=1)
            keys = rng.per_example(rng.named(key, "vat"), index.reshape(-1))
            metrics |= self.smooth(params, extra["stats"], fold(images), keys)
            loss += self.vat * metrics["vat"] + self.entropy * metrics["entropy"]
        return loss, Aux(dict(extra, stats=nets.stats), metrics=metrics)

    def copies(self, batch: Mapping[str, Any], key: Array) -> Array:
        """Return the copies of each image that pass the network, (B, m, H, W, C)."""
        images = batch["views"][0]
        if self.color_noise:
            images = with_hsv_noise(self.view, images, rng.per_example(key, batch["index"]))
        if self.task != "rotation":
            return images
        self.view.check_square()
        return geometric.rotations(images[:, 0])

    def learn(
        self, nets: Bound, labelled: Array, unlabelled: Array, labels: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Compute the loss of the classes and of the task, and its terms, from the features
        (B, m, D) of either set. Every copy has its image's label, -1 for none.
        """
        logits = nets.classes(labelled)
        labels = jnp.broadcast_to(labels[:, None], logits.shape[:2])
        classes = labelled_mean(cross_entropy(logits, jnp.maximum(labels, 0)), labels)
        metrics = {"classes": classes, "top1": labelled_mean(logits.argmax(-1) == labels, labels)}
        loss = self.label_weight * classes
        if self.task != "none":
            task = {"rotation": self.rotation, "exemplar": self.exemplar}[self.task]
            metrics[self.task] = (task(nets, labelled) + task(nets, unlabelled)) / 2
            loss += self.weight * metrics[self.task]
        return loss, metrics

    def rotation(self, nets: Bound, features: Array) -> Array:
        """Compute the cross-entropy of the rotations, from features (B, 4, D)."""
        logits = nets.rotation(features)
        turns = jnp.broadcast_to(jnp.arange(4), logits.shape[:2])
        return jnp.mean(cross_entropy(logits, turns))

    def exemplar(self, nets: Bound, features: Array) -> Array:
        """Compute the triplet loss of the crops, from features (B, m, D)."""
        images, copies = features.shape[:2]
        z = l2_normalize(fold(nets.exemplar(features)))
        rows = jnp.arange(images * copies)
        return jnp.mean(batch_hard(z, rows // (copies if self.identities == "images" else images)))

    def smooth(self, params: Tree, stats: Tree, images: Array, keys: Array) -> dict[str, Array]:
        """Compute the divergence and the entropy of the predictions for images (n, H, W, C). Batch
        norm uses the statistics of each pass, and keeps none of them.
        """

        def predict(images: Array) -> Array:
            nets = self.networks.bind(params, stats)
            return nets.classes(nets.backbone(images).pooled)

        logits = predict(images)
        vat = jnp.zeros((), logits.dtype)
        if self.vat:
            noise, xi = self.noise(keys, images), self.vat_step or None
            vat = virtual_adversarial(predict, images, logits, noise, self.epsilon, xi)
        return {"vat": vat, "entropy": entropy(logits)}

    def noise(self, keys: Array, images: Array) -> Array:
        """Draw the start of the power iteration, (n, H, W, C)."""
        return jax.vmap(lambda k: jax.random.normal(k, images.shape[1:], images.dtype))(keys)

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        return params, average.update(self.average, params, extra, step)

    def teacher(self, params: Tree, extra: Tree) -> tuple[Tree, Tree] | None:
        return average.teacher(extra)

    def encoder(self, params: Tree, extra: Tree) -> Encoder:
        """Return the backbone and its classifier, or their average if there is one."""
        params, stats = average.evaluated(params, extra)
        classifier = Heads.of(self.classes, params["classes"])
        return Encoder(params["backbone"], stats["backbone"], self.backbone, classifier=classifier)

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        if self.task != "rotation":
            return {}
        turned = geometric.rotations(images[:ROWS])
        nets = self.networks.bind(params, extra["stats"], train=False)
        logits = nets.rotation(nets.backbone(fold(turned)).pooled)
        return {"Predicted rotations": rotations(turned, unfold(logits, 4))}


make = S4L.make
