"""QB-Heat: self-supervised learning based on the heat equation (2211.13228)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import Count, Whole
from ssl_jax.losses.reconstruction import squared_error
from ssl_jax.nets.decoders import conv_decoder
from ssl_jax.nets.extrapolation import commutator, linear_extrapolator
from ssl_jax.nets.functional import output_shapes
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Objective, Picture, Probe, View
from ssl_jax.objectives.parts.networks import Bound, Networks
from ssl_jax.objectives.parts.pictures import ROWS
from ssl_jax.objectives.parts.views import fold

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class QBHeat(Objective):
    """The encoder sees one quadrant of the image. Its features z obey dz/dx = A z and dz/dy = B z,
    whose solution is the map of the other three quadrants; a small decoder turns it into pixels.

    The encoder receives the quadrant alone, as an image of half the side, so any backbone with a
    map will do. There is no released code: which quadrant is visible (any of the four), the
    decoder and the two matrices, shared by steps ahead and back, are this project's choices.

    Attributes:
      view: crop and augmentation (count 1).
      dim: width of z.
      decoder_dim, decoder_depth: width and number of residual 3x3 convolutions of the decoder.

    Raises:
      UserError: a view that is not square and even, a backbone without a map, or whose map does
        not divide the quadrant.
    """

    family: ClassVar[str] = "masked"
    needs: ClassVar[str] = "a backbone with a map of the quadrant"
    probe: ClassVar[Probe] = Probe(pool="avg")  # the loss trains the map

    view: OneCrop = View(256, area=(0.2, 1.0), recipe="mae", interpolation="bicubic")
    dim: Count = 512
    decoder_dim: Count = 512
    decoder_depth: Whole = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.view.side % 2:
            raise UserError(f"view.size: expected an even side, got {self.view.side}")

    @cached_property
    def networks(self) -> Networks:
        side, channels = self.view.side // 2, self.spec.channels
        quadrant = output_shapes(self.backbone, (side, side, channels)).map
        if quadrant is None:
            raise UserError("objective: this backbone has no map; use a ResNet, ViT or Swin")
        rows, _, width = quadrant.shape
        if side % rows:
            raise UserError(
                f"view.size: a quadrant of {side} px is not a multiple of its map's side of "
                f"{rows}; use another view.size"
            )
        return self.backbone_and(
            project=mlp_head(width, (self.dim,)),
            heat=linear_extrapolator(self.dim),
            decoder=conv_decoder(
                self.dim,
                self.decoder_dim,
                self.decoder_depth,
                side // rows,
                channels,
                dtype=self.backbone.config.dtype,
            ),
        )

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images = fold(batch["views"][0])
        place = self.places(rng.per_example(key, batch["index"]))
        nets = self.networks.bind(params, extra["stats"])
        z = self.encode(nets, self.quadrant(images, place))
        hidden = 1 - self.visible(place)
        loss = squared_error(self.predict(nets, z, place), images, hidden)
        metrics = {
            "copy_error": squared_error(self.copied(images, place), images, hidden),
            "commutator": commutator(params["heat"]["across"], params["heat"]["down"]),
        }
        return loss, Aux({"stats": nets.stats}, metrics=metrics)

    def places(self, keys: Array) -> Array:
        """Draw the row and column (B, 2) of the visible quadrant, 0 or 1, with keys (B,)."""
        return jax.vmap(lambda k: jax.random.randint(k, (2,), 0, 2))(keys)

    def quadrant(self, images: Array, place: Array) -> Array:
        """Cut the quadrants at `place` (B, 2) out of images (B, H, W, C)."""
        half = self.view.side // 2
        size = (half, half, images.shape[-1])
        cut = lambda image, at: jax.lax.dynamic_slice(image, (*at * half, 0), size)  # noqa: E731
        return jax.vmap(cut)(images, place)

    def visible(self, place: Array) -> Array:
        """Return masks (B, H, W, 1) float32, 1 in the quadrant at `place` (B, 2)."""
        half = jnp.arange(self.view.side) // (self.view.side // 2)
        row, column = (half == place[:, i, None] for i in range(2))
        return (row[:, :, None] & column[:, None, :]).astype(jnp.float32)[..., None]

    def copied(self, images: Array, place: Array) -> Array:
        """Return images (B, H, W, C) with the visible quadrant in all four places."""
        return jnp.tile(self.quadrant(images, place), (1, 2, 2, 1))

    def encode(self, nets: Bound, quadrant: Array) -> Array:
        """Compute z (B, h, w, dim) of one quadrant (B, H / 2, W / 2, C)."""
        return nets.project(nets.backbone(quadrant).map)

    def predict(self, nets: Bound, z: Array, place: Array) -> Array:
        """Extrapolate z to the whole map, linearly, and decode the image (B, H, W, C)."""
        return nets.decoder(nets.heat(z, place))

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        images = images[:ROWS]
        place = self.places(rng.per_example(key, jnp.arange(len(images))))
        nets = self.networks.bind(params, extra["stats"], train=False)
        prediction = self.predict(nets, self.encode(nets, self.quadrant(images, place)), place)
        visible = self.visible(place)
        own = images * visible
        columns = (
            own,
            own + prediction * (1 - visible),
            self.copied(images, place),
            images,
        )
        caption = (
            "The network sees one quadrant. Two linear differential equations extrapolate its "
            "features to the other three (grey in the input), and a decoder turns them into "
            "pixels. To compare: the visible quadrant copied three times."
        )
        names = ("input", "prediction", "copy", "image")
        return {"Extrapolation": Picture(jnp.stack(columns, axis=1), caption, names)}


make = QBHeat.make
