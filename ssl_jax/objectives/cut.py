"""CUT and FastCUT: contrastive learning for unpaired image-to-image translation (2007.15651)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.augment import recipes
from ssl_jax.augment.patches import random_places
from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import Count, NonNegative, Positive, Probability
from ssl_jax.losses.patch_nce import patch_nce
from ssl_jax.nets.discriminators import patch_discriminator
from ssl_jax.nets.functional import Net
from ssl_jax.nets.patch_projections import cells_at, patch_projections
from ssl_jax.nets.resampling import reflected
from ssl_jax.objectives.base import (
    Aux,
    Encoder,
    Group,
    ImageTranslator,
    Inputs,
    Objective,
    Picture,
    Turn,
    View,
)
from ssl_jax.objectives.parts.networks import Bound, Networks
from ssl_jax.objectives.parts.pictures import ROWS
from ssl_jax.objectives.parts.views import check_sides

Array = jax.Array
Tree = Any
TARGET = "target"  # the stream
IMAGE = "image"  # layer: the image itself, extended as for the first convolution


@dataclass(frozen=True)
class CUT(Objective):
    """A generator turns images of the training set into images like those of `data.streams.target`.

    A discriminator compares them with real ones (least squares), and PatchNCE keeps each place of a
    translation close to the same place of its source. The backbone is the generator's encoder.

    As in the released models/cut_model.py the discriminator is updated first, and the generator and
    the projections then learn from the updated one. FastCUT is `nce_weight=10`, `identity=False`,
    `mirror=0.5`.

    Attributes:
      view: crop and augmentation of both domains; its values must be in [-1, 1].
      layers: stages whose places are compared, and "image" for the pixels. The release's 0, 4, 8,
        12, 16 are the padded image, two convolutions before their norm, and blocks 1 and 5.
      patches: places drawn per layer, the same ones in all images of a batch.
      patch_width: width of the projections.
      temperature: of PatchNCE.
      nce_weight, gan_weight: weights of the losses.
      identity: also compare images of the target domain with their own translations; the two
        PatchNCE terms are averaged.
      mirror: probability that the generator gets the whole batch mirrored, while PatchNCE compares
        it with the upright source (flip-equivariance of FastCUT).
      across_images: places of all images of the batch are negatives.
      discriminator_width, discriminator_layers: see `nets.discriminators.patch_discriminator`.

    Raises:
      UserError: a view whose values are not in [-1, 1], or whose size the generator does not keep;
        unknown layers; a backbone without a decoder of images.
    """

    family: ClassVar[str] = "translation"
    needs: ClassVar[str] = "backbone resnet_generator; a second set of images, the target domain"

    view: OneCrop = View(
        256,
        area=((256 / 286) ** 2, (256 / 286) ** 2),
        recipe="cut",
        interpolation="bicubic",
        crop="same_aspect",
    )
    layers: tuple[str, ...] = (IMAGE, "down1", "down2", "block1", "block5")
    patches: Count = 256
    patch_width: Count = 256
    temperature: Positive = 0.07
    nce_weight: NonNegative = 1.0
    gan_weight: NonNegative = 1.0
    identity: bool = True
    mirror: Probability = 0.0
    across_images: bool = False
    discriminator_width: Count = 64
    discriminator_layers: Count = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.decoder  # noqa: B018 (raises)
        chain = recipes.recipe(self.view.recipe)
        if {*chain.mean, *chain.std} != {0.5} or chain.space != "rgb":
            raise UserError(
                "objective.view.recipe: the generator's images are in [-1, 1]; set mean and std to "
                "0.5"
            )
        known = (IMAGE, *(stage.name for stage in self.stage_shapes.stages))
        if unknown := [name for name in self.layers if name not in known]:
            raise UserError(
                f"objective.layers: no layer {unknown[0]!r}; expected some of {', '.join(known)}"
            )
        if not self.layers:
            raise UserError("objective.layers: none; PatchNCE compares at least one layer")
        check_sides(self.view, self.backbone)

    def inputs(self) -> Inputs:
        return Inputs((self.view,), streams=((TARGET, Inputs((self.view,))),))

    @cached_property
    def decoder(self) -> Net:
        net: Net = self.backbone.config.image_decoder(self.spec.channels)
        return net

    @cached_property
    def networks(self) -> Networks:
        maps, channels = self.stage_shapes, self.spec.channels
        widths = [channels if n == IMAGE else maps[n].shape[-1] for n in self.layers]
        dtype = self.backbone.config.dtype
        return self.backbone_and(
            decoder=self.decoder,
            discriminator=patch_discriminator(
                channels, self.discriminator_width, self.discriminator_layers, dtype
            ),
            projections=patch_projections(widths, self.patch_width, dtype),
        )

    def groups(self) -> dict[str, Group]:
        """Give discriminator and projections an optimizer each; the generator has the rest."""
        return {name: Group(f"^{name}/") for name in ("discriminator", "projections")}

    def turns(self) -> Sequence[Turn]:
        return (
            Turn(self.discriminate, ("discriminator",)),
            Turn(self.loss, ("backbone", "decoder", "projections")),
        )

    def discriminate(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        """Compute the discriminator's loss: least squares to 1 for real images, 0 for generated."""
        nets = self.networks.bind(params, extra["stats"])
        source, _, _ = self.shown(batch, key)
        generated = jax.lax.stop_gradient(self.translate(nets, source))
        fake = jnp.mean(jnp.square(nets.discriminator(generated)))
        # As in the release, the real images are not mirrored with the others.
        real = jnp.mean(jnp.square(nets.discriminator(batch[TARGET]["views"][0][:, 0]) - 1))
        metrics = {"discriminator_fake": fake, "discriminator_real": real}
        return (fake + real) / 2, Aux(extra, metrics=metrics)

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        """Compute the loss of generator and projections."""
        nets = self.networks.bind(params, extra["stats"])
        source, target, mirrored = self.shown(batch, key)
        generated = self.translate(nets, source)
        gan = jnp.mean(jnp.square(nets.discriminator(generated) - 1))
        upright = batch["views"][0][:, 0]
        nce = self.compare(nets, upright, generated, mirrored, rng.named(key, "source"))
        metrics = {"gan": gan, "nce": self.nce_weight * nce}
        if self.identity:
            upright, own = batch[TARGET]["views"][0][:, 0], self.translate(nets, target)
            other = self.compare(nets, upright, own, mirrored, rng.named(key, TARGET))
            metrics["nce_identity"] = self.nce_weight * other
            nce = (nce + other) / 2
        return self.gan_weight * gan + self.nce_weight * nce, Aux(extra, metrics=metrics)

    def shown(self, batch: Mapping[str, Any], key: Array) -> tuple[Array, Array, Array | None]:
        """Return the images (B, H, W, C) of both domains as the generator gets them, and whether
        they are mirrored: a boolean, or None if they never are.
        """
        source, target = batch["views"][0][:, 0], batch[TARGET]["views"][0][:, 0]
        mirrored = self.draw_mirror(rng.named(key, "mirror")) if self.mirror else None
        return flipped(source, mirrored), flipped(target, mirrored), mirrored

    def draw_mirror(self, key: Array) -> Array:
        """Draw whether the batch is mirrored."""
        return jax.random.bernoulli(key, self.mirror)

    def translate(self, nets: Bound, images: Array) -> Array:
        """Translate images (B, H, W, C)."""
        translation: Array = nets.decoder(nets.backbone(images).map)
        return translation

    def compare(
        self, nets: Bound, source: Array, translation: Array, mirrored: Array | None, key: Array
    ) -> Array:
        """Compute PatchNCE of the places of a translation, over all layers."""
        queries = [flipped(x, mirrored) for x in self.maps(nets, translation)]
        keys = self.maps(nets, source)
        places = random_places(key, [x.shape[1] * x.shape[2] for x in keys], self.patches)
        projected = (nets.projections(*cells_at(maps, places)) for maps in (queries, keys))
        losses = [
            jnp.mean(patch_nce(q, k, self.temperature, across_images=self.across_images))
            for q, k in zip(*projected, strict=True)
        ]
        return jnp.mean(jnp.stack(losses))

    def maps(self, nets: Bound, images: Array) -> list[Array]:
        """Return the compared layers of images, (B, h, w, C) each."""
        features = nets.backbone(images, stages=True)
        return [reflected(images, 3) if name == IMAGE else features[name] for name in self.layers]

    def encoder(self, params: Tree, extra: Tree) -> Encoder:
        translator = ImageTranslator(params["decoder"], self.decoder)
        stats = extra["stats"]["backbone"]
        return Encoder(params["backbone"], stats, self.backbone, translator=translator)

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        caption = "Images of the source domain, and their translations to the target domain."
        rows = with_translations(self.encoder(params, extra), images)
        return {"Translation": Picture(rows, caption, ("source", "translation"))}

    def stream_pictures(
        self, params: Tree, extra: Tree, streams: Mapping[str, Array], key: Array
    ) -> Mapping[str, Picture]:
        caption = (
            "Images of the target domain, and their own translations, which should not differ."
        )
        rows = with_translations(self.encoder(params, extra), streams[TARGET])
        return {"Identity": Picture(rows, caption, ("target", "identity"))}


def flipped(x: Array, mirrored: Array | None) -> Array:
    """Mirror maps (B, h, w, C) from left to right if `mirrored` is true; None for never."""
    return x if mirrored is None else jnp.where(mirrored, x[:, :, ::-1], x)


def with_translations(encoder: Encoder, images: Array) -> Array:
    """Show some images and their translations side by side, (rows, 2, H, W, C)."""
    images = images[:ROWS]
    return jnp.stack([images, encoder.translate(images)], axis=1)


make = CUT.make
