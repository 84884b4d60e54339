"""An encoder that knows how images are shown to it and where its features are read."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment.recipes import prepare
from ssl_jax.core import tree
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.data.decode import eval_crop, to_channels
from ssl_jax.evals import features
from ssl_jax.nets.layers import at_least_float32
from ssl_jax.objectives import base
from ssl_jax.objectives.base import Probe

Array = jax.Array
UNPOOLED = "none"  # as `Probe.pool`: features of every place of the layer's map


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Encoder(base.Encoder):
    """A frozen backbone that can be called on images. Like any `objectives.base.Encoder` it is a
    pytree, to be passed INTO `jax.jit`.

    Attributes:
      view: the network is shown square crops of `view.size`, normalised as `view.recipe` says.
      probe: the layer that is read, and its pooling: as of `Probe`, or "none" for features (B, h,
        w, D) of all places of the layer's map.
      channels: of the images.
      settings: the config of the run, as JSON.
      origin: where the weights are from, for people.
    """

    view: View = field(metadata={"static": True})
    probe: Probe = field(metadata={"static": True})
    channels: int = field(metadata={"static": True})
    settings: str = field(default="{}", metadata={"static": True})
    origin: str = field(default="", metadata={"static": True})

    @classmethod
    def of(
        cls,
        encoder: base.Encoder,
        view: View,
        probe: Probe,
        channels: int,
        config: Mapping[str, Any],
        origin: str = "",
    ) -> Self:
        """`encoder`, told how it is fed and where it is read."""
        own = {f.name: getattr(encoder, f.name) for f in dataclasses.fields(base.Encoder)}
        settings = json.dumps(config, sort_keys=True)
        return cls(
            **own, view=view, probe=probe, channels=channels, settings=settings, origin=origin
        )

    def __call__(self, images: Any) -> Array:
        """Features (B, D) float32 where `probe` reads them.

        Each number of images, and each size of float images, is compiled once.

        Args:
          images: uint8, what `crop` takes; or floating, (B, H, W, C) of a size that the network
            takes, as `preprocess` makes them: then it may be differentiated.

        Raises:
          UserError: images of another form, or no such layer.
        """
        if hasattr(images, "dtype") and jnp.issubdtype(images.dtype, jnp.floating):
            return _of_normalised(self.bare, images)
        return _of_crops(self.bare, self.crop(images))

    def at(self, stage: int | str | None = None, pool: str | None = None) -> Self:
        """The same encoder, read at another layer, a number or a name of `layers`.

        Raises:
          UserError: there is none, or no such pooling.
        """
        known = self.layers
        if isinstance(stage, str) and stage not in known:
            raise UserError(f"no layer {stage!r} in this network; it has {', '.join(known)}")
        number = known.index(stage) - len(known) if isinstance(stage, str) else stage
        made = dataclasses.replace(self, probe=self.probe.at(number, pool))
        made.feature_shape  # noqa: B018 (raises)
        return made

    def crop(self, images: Any) -> Any:
        """uint8 (B, size, size, C): the central square of each image, resized, as evaluation shows
        it; see `data.decode.eval_crop`. Crops stay as they are.

        Args:
          images: uint8, (B, H, W, C), or a sequence of (H, W, C) of any sizes; grey ones (C = 1)
            and RGB become what the network takes.

        Raises:
          UserError: images of another form.
        """
        size, wanted = self.view.size, (self.view.size, self.view.size, self.channels)
        if getattr(images, "ndim", 0) == 4 and images.shape[1:] == wanted:
            return _uint8(images)
        every = [_uint8(np.asarray(image)) for image in images]
        if not every or any(image.ndim != 3 or 0 in image.shape for image in every):
            shape = getattr(images, "shape", [image.shape for image in every[:3]])
            raise UserError(
                f"images of shape {shape}; expected (B, H, W, C), or a list of (H, W, C)"
            )
        try:
            return np.stack([eval_crop(to_channels(x, self.channels), size) for x in every])
        except ValueError as e:
            raise UserError(str(e)) from None

    def preprocess(self, images: Any) -> Array:
        """What the network is shown: crops, float32, normalised; `images` as for `crop`."""
        return prepare(self.view, self.crop(images))

    @property
    def bare(self) -> Self:
        """Without `settings` and `origin`: encoders of all steps of a run compile once."""
        return dataclasses.replace(self, settings="{}", origin="")

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config of the run that made the weights."""
        return json.loads(self.settings)  # type: ignore[no-any-return]

    @property
    def layers(self) -> list[str]:
        """Names of the stages, in order."""
        return features.names(jax.eval_shape(lambda e, x: e.features(x), self, self._image(1)))

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """(D,), or (h, w, D) without pooling.

        Raises:
          UserError: `probe` names a layer or pooling that there is not.
        """
        return jax.eval_shape(read_normalised, self, self._image(1)).shape[1:]

    def digest(self) -> str:
        """Of the backbone's weights: the same however they are laid out over devices."""
        weights = {"params": self.params, "stats": self.stats}
        sums = zip(tree.named_leaves(weights).items(), _checksums(weights), strict=True)
        digest = hashlib.blake2b(digest_size=16)
        for (name, leaf), found in sums:
            text = f"{name} {leaf.shape} {leaf.dtype} {np.asarray(found).tolist()}\n"
            digest.update(text.encode())
        return digest.hexdigest()

    def _image(self, count: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((count, *[self.view.size] * 2, self.channels), jnp.float32)


def read_normalised(encoder: Encoder, images: Array) -> Array:
    """Features (B, ...) float32 of normalised images (B, H, W, C). Pure; not jitted."""
    stages = encoder.features(images)
    if encoder.probe.pool == UNPOOLED:
        return at_least_float32(features.stage_map(stages, encoder.probe.stage))
    return features.select(stages, encoder.probe)


def read(encoder: Encoder, crops: Array) -> Array:
    """Features (B, ...) float32 of what `Encoder.crop` gives. Pure; not jitted."""
    return read_normalised(encoder, prepare(encoder.view, crops))


_of_normalised, _of_crops = jax.jit(read_normalised), jax.jit(read)


def _uint8(images: Any) -> Any:
    if images.dtype != np.uint8:
        raise UserError(f"images are {images.dtype}; expected uint8, 0 to 255")
    return images


@jax.jit
def _checksums(weights: tree.Tree) -> Sequence[Array]:
    """(2,) uint32 of each leaf: sums over all elements of mixed bits of value and place."""

    def mixed(x: Array, factor: int) -> Array:
        bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * min(x.dtype.itemsize, 4)}"))
        bits = bits.reshape(-1).astype(jnp.uint32)
        x = (bits ^ (jnp.arange(bits.size, dtype=jnp.uint32) * jnp.uint32(0x9E3779B1))) + 1
        x = (x ^ (x >> 15)) * jnp.uint32(factor)
        x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE3D)
        return jnp.sum(x ^ (x >> 16), dtype=jnp.uint32)

    return [
        jnp.stack([mixed(x, 0x85EBCA77), mixed(x, 0x27D4EB2F)]) for x in jax.tree.leaves(weights)
    ]
