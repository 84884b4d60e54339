"""S4L: self-supervised semi-supervised learning (1905.03670)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ssl_jax.augment import geometric, photometric, recipes
from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, NonNegative, Positive
from ssl_jax.losses.cross_entropy import cross_entropy, soft_cross_entropy
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.losses.triplet import batch_hard
from ssl_jax.losses.vat import adversarial_direction, divergence, entropy
from ssl_jax.nets.functional import Net
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Encoder, Heads, Inputs, Objective, View
from ssl_jax.objectives.parts.networks import Bound, Networks
from ssl_jax.objectives.parts.views import fold, unfold

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

    Raises:
      UserError: no labels; a view whose count does not suit the task; nothing to learn from
        unlabelled images.
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
        widths = {"rotation": (4,), "exemplar": (self.embedding,)}
        tasks = {self.task: mlp_head(self.feature_dim, widths[self.task])} if self.rows else {}
        return self.backbone_and(classes=self.classes, **tasks)

    @property
    def rows(self) -> int:
        """Number of copies of an image that the task compares; 0 without a task."""
        return {"rotation": 4, "exemplar": self.view.count, "none": 0}[self.task]

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        labelled = self.copies(batch, rng.named(key, "labelled"))  # (B, m, H, W, C)
        unlabelled = self.copies(batch["unlabelled"], rng.named(key, "unlabelled"))
        nets = self.networks.bind(params, extra["stats"])
        both = nets.backbone(fold(labelled, unlabelled)).pooled
        features = unfold(both, 2 * labelled.shape[1])
        first, second = jnp.split(features, 2, axis=1)  # the labelled and the unlabelled images
        loss, metrics = self.learn(nets, first, second, batch["label"])
        if self.vat or self.entropy:
            images, index = unlabelled[:, :1], batch["unlabelled"]["index"][:, None]
            if self.vat_labelled:
                images = jnp.concatenate([labelled[:, :1], images], axis=1)
                index = jnp.concatenate([batch["index"][:, None], index], axis=1)
            keys = rng.per_example(rng.named(key, "vat"), index.reshape(-1))
            metrics |= self.smooth(params, extra["stats"], fold(images), keys)
            loss += self.vat * metrics["vat"] + self.entropy * metrics["entropy"]
        return loss, Aux({"stats": nets.stats}, metrics=metrics)

    def learn(
        self, nets: Bound, labelled: Array, unlabelled: Array, labels: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Compute the loss of the classes and of the task, and its terms, from the features
        (B, m, D) of either set.
        """
        loss, accuracy = self.classify(nets.classes(labelled), labels)
        metrics = {"classes": loss, "top1": accuracy}
        loss = self.label_weight * loss
        if self.rows:
            task = {"rotation": self.rotation, "exemplar": self.exemplar}[self.task]
            metrics[self.task] = (task(nets, labelled) + task(nets, unlabelled)) / 2
            loss += self.weight * metrics[self.task]
        return loss, metrics

    def copies(self, batch: Mapping[str, Any], key: Array) -> Array:
        """Return the copies of each image that pass the network, (B, m, H, W, C)."""
        images = batch["views"][0]
        if self.color_noise:
            keys = jax.vmap(lambda k: jax.random.split(k, self.view.count))(
                rng.per_example(key, batch["index"])
            )
            noisy = jax.vmap(jax.vmap(photometric.random_hsv_noise))(
                keys, jnp.moveaxis(recipes.unit(self.view, images), -1, 2)
            )
            images = recipes.normalize(self.view, jnp.moveaxis(noisy, 2, -1)).astype(images.dtype)
        if self.task != "rotation":
            return images
        self.view.check_square()
        return geometric.rotations(images[:, 0])

    def classify(self, logits: Array, labels: Array) -> tuple[Array, Array]:
        """Compute the cross-entropy of logits (B, m, K), every copy with its image's label, and the
        accuracy. Images without a label (-1) do not count.
        """
        share = jnp.broadcast_to((labels >= 0)[:, None], logits.shape[:2])
        targets = jax.nn.one_hot(labels, logits.shape[-1])[:, None]
        total = jnp.maximum(jnp.sum(share), 1)
        loss = jnp.sum(soft_cross_entropy(logits, jnp.broadcast_to(targets, logits.shape))) / total
        return loss, jnp.sum(share & (logits.argmax(-1) == labels[:, None])) / total

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

        clean = predict(images)
        metrics = {"vat": jnp.zeros((), clean.dtype), "entropy": entropy(clean)}
        if self.vat:
            xi = self.vat_step or None
            noise = self.noise(keys, images)
            change = self.epsilon * adversarial_direction(predict, images, clean, noise, xi)
            # The gradient flows through the changed images' prediction alone.
            metrics["vat"] = divergence(predict(images + change), jax.lax.stop_gradient(clean))
        return metrics

    def noise(self, keys: Array, images: Array) -> Array:
        """Draw the start of the power iteration, (n, H, W, C)."""
        return jax.vmap(lambda k: jax.random.normal(k, images.shape[1:], images.dtype))(keys)

    def encoder(self, params: Tree, extra: Tree) -> Encoder:
        """Return the backbone and its classifier."""
        classifier = Heads(params["classes"], self._score)
        stats = extra["stats"]["backbone"]
        return Encoder(params["backbone"], stats, self.backbone, classifier=classifier)

    def _score(self, params: Tree, pooled: Array) -> Sequence[Array]:
        return [self.classes.apply(params, {}, pooled, train=False)[0]]


make = S4L.make
