"""Exemplar-CNN: discriminative feature learning with exemplar networks (1406.6909)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ssl_jax.augment import recipes
from ssl_jax.augment.seeds import draw_seed, transform_seed
from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, Interval, NonNegative, Positive, Range, Whole
from ssl_jax.losses.cross_entropy import cross_entropy
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.losses.triplet import batch_hard, cosine_triplet, semi_hard
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Objective, Picture, View
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.pictures import ROWS
from ssl_jax.objectives.parts.views import check_plain, fold, unfold

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class ExemplarCNN(Objective):
    """One patch of each image, the seed, is a class of its own: the network recognises it after
    random transformations.

    The seed is drawn once per image, its position in proportion to the squared gradient in it. The
    six transformations are translation, scaling, rotation, contrast along the principal colours,
    powers of saturation and value, and a shift of the hue.

    Attributes:
      view: the whole image (area (1, 1)); its chain only normalises.
      patch: side of the network's input in pixels.
      seed_scale: the side of a seed is `patch` times a number from 1 to this, log-uniform (the
        paper varies it but names no range).
      transforms: number of transformations of each seed, drawn once; 0 draws new ones at each step.
      copies: transformed copies of each seed per step.
      form: "softmax" with a class per seed, as in the paper; for many seeds, triplets of copies
        within the batch: "semi_hard" (Kolesnikov et al. 2019, 1901.09005), "batch_hard" with a
        soft margin (S4L, 1905.03670), or "cosine" with the next image of the batch as the negative
        (Doersch and Zisserman 2017, 1708.07860).
      embedding: width of the triplets' embedding.
      margin: margin of "semi_hard" and "cosine".
      normalized: axis along which triplets' embeddings get unit length: "features", or "batch" as
        released with 1901.09005 (exemplar.py, l2_normalize without its axis).
      translation: largest shift along either axis as a share of the seed's side.
      scale: range of the scale, log-uniform.
      rotation: largest angle in degrees.
      contrast: range of the factor of each principal component, log-uniform.
      power, factor: ranges of the exponent and of the factor of S and of V, log-uniform.
      offset: largest number added to S and to V.
      hue: largest shift of the hue as a share of the circle.

    Raises:
      UserError: a view that is not a plain whole image, or that is smaller than the patch; triplets
        without several copies.
    """

    family: ClassVar[str] = "pretext"
    needs: ClassVar[str] = "images larger than a patch"
    least_batch: ClassVar[int] = 2

    view: View = View(96, area=(1.0, 1.0), recipe="none")
    patch: Count = 32
    seed_scale: Annotated[float, Range(1)] = 2.0
    transforms: Whole = 100
    copies: Count = 1
    form: Literal["softmax", "semi_hard", "batch_hard", "cosine"] = "softmax"
    embedding: Count = 1000
    margin: Positive = 0.5
    normalized: Literal["features", "batch"] = "features"
    translation: NonNegative = 0.2
    scale: Interval[Positive] = (0.7, 1.4)
    rotation: NonNegative = 20.0
    contrast: Interval[Positive] = (0.5, 2.0)
    power: Interval[Positive] = (0.25, 4.0)
    factor: Interval[Positive] = (0.7, 1.4)
    offset: NonNegative = 0.1
    hue: NonNegative = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_plain(self.view)
        if self.patch > min(self.view.sides):
            raise UserError(
                f"objective.patch: {self.patch} px do not fit a view of {self.view.sides}; use at "
                f"most {min(self.view.sides)}"
            )
        if self.form != "softmax" and self.copies < 2:
            raise UserError(
                f"objective.copies: triplets need at least 2 per image, got {self.copies}"
            )

    @cached_property
    def networks(self) -> Networks:
        classes = self.spec.num_examples if self.form == "softmax" else self.embedding
        return self.backbone_and(classifier=mlp_head(self.feature_dim, (classes,)))

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.networks.init(key)
        # The seeds are functions of this key, so they need no memory.
        return params, {"stats": stats, "seeds": jax.random.key_data(rng.named(key, "seeds"))}

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        index = batch["index"]
        patches = fold(self.exemplars(extra["seeds"], batch["views"][0][:, 0], index, key))
        labels = jnp.repeat(index, self.copies)
        nets = self.networks.bind(params, extra["stats"])
        out = nets.classifier(nets.backbone(patches).pooled)
        extra = dict(extra, stats=nets.stats)
        if self.form == "softmax":
            accuracy = jnp.mean(out.argmax(-1) == labels)
            return jnp.mean(cross_entropy(out, labels)), Aux(extra, metrics={"accuracy": accuracy})
        z = l2_normalize(out, axis=-1 if self.normalized == "features" else 0)
        return self.triplets(z, labels), Aux(extra)

    def triplets(self, z: Array, labels: Array) -> Array:
        """Compute the triplet loss of embeddings (B copies, d) and their images (B copies,)."""
        if self.form == "semi_hard":
            return semi_hard(z, labels, self.margin)
        if self.form == "batch_hard":
            return jnp.mean(batch_hard(z, labels))
        each = unfold(z, self.copies)
        anchor, positive, negative = each[:, 0], each[:, 1], jnp.roll(each[:, 0], 1, 0)
        return jnp.mean(cosine_triplet(anchor, positive, negative, self.margin))

    def exemplars(self, seed: Array, images: Array, index: Array, key: Array) -> Array:
        """Transform the seeds of images (B, H, W, C): (B, copies, patch, patch, C), normalised.

        Args:
          seed: data of the key of all seeds.
          index: (B,) int32, the images' positions in the data set.
          key: the step's key.
        """

        def copies(seed_key: Array, key: Array, image: Array) -> Array:
            keys = jax.random.split(key, self.copies)
            if self.transforms:
                number = jax.random.randint(key, (self.copies,), 0, self.transforms)
                keys = rng.per_example(seed_key, number)
            seed_key = rng.named(seed_key, "seed")
            centre, side = draw_seed(seed_key, image, self.patch, self.seed_scale)
            transform = partial(
                transform_seed,
                image=image,
                centre=centre,
                side=side,
                patch=self.patch,
                translation=self.translation,
                scale=self.scale,
                rotation=self.rotation,
                contrast=self.contrast,
                power=self.power,
                factor=self.factor,
                offset=self.offset,
                hue=self.hue,
            )
            return jax.vmap(transform)(keys)

        seed_keys = rng.per_example(jax.random.wrap_key_data(seed), index)
        patches = jax.vmap(copies)(
            seed_keys, rng.per_example(key, index), recipes.unit(self.view, images)
        )
        return recipes.normalize(self.view, patches).astype(images.dtype)

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        images = images[:ROWS]
        keys = jax.random.split(key, ROWS - 1)
        several = [
            self.exemplars(extra["seeds"], images, jnp.arange(len(images)), k)[:, 0] for k in keys
        ]
        caption = (
            "Each row is one class: a patch of one image, drawn where its gradients are large, "
            "after several random transformations."
        )
        return {"Exemplars": Picture(jnp.stack(several, axis=1), caption)}


make = ExemplarCNN.make
