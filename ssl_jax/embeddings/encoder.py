"""Encoder that includes its preprocessing and the layer from which its features are read."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment.recipes import prepare
from ssl_jax.core import tree
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.data.decode import DecodeError, decode, eval_crop, to_channels
from ssl_jax.nets.layers import at_least_float32
from ssl_jax.objectives import base
from ssl_jax.objectives.base import Probe

Array = jax.Array
UNPOOLED = "none"  # a value of `Probe.pool`: the layer's whole feature map


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, repr=False)
class ImageEncoder(base.Encoder):
    """A frozen backbone that can be called on images. Like any `objectives.base.Encoder` it is a
    pytree, to be passed INTO `jax.jit`.

    Attributes:
      view: the network takes crops of `view.size`, normalised according to `view.recipe`.
      probe: the layer that is read, and its pooling: one of `Probe`'s, or "none" for the layer's
        whole feature map (B, h, w, D).
      channels: number of channels of the images.
      settings: the config of the run, as JSON.
      origin: where the weights are from, as readable text.
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
        """Add preprocessing and the layer to read to `encoder`."""
        own = {f.name: getattr(encoder, f.name) for f in dataclasses.fields(base.Encoder)}
        settings = json.dumps(config, sort_keys=True)
        return cls(
            **own, view=view, probe=probe, channels=channels, settings=settings, origin=origin
        )

    def __call__(self, images: Any) -> Array:
        """Compute the features (B, D) float32 that `probe` selects.

        Each number of images, and each size of float images, is compiled once.

        Args:
          images: uint8, in any form that `crop` takes; or floating, (B, H, W, C) of a size that the
            network takes, as returned by `preprocess`: then the call is differentiable.

        Raises:
          UserError: images of another form, or no such layer.
        """
        if hasattr(images, "dtype") and jnp.issubdtype(images.dtype, jnp.floating):
            if images.ndim != 4 or images.shape[-1] != self.channels:
                raise UserError(
                    f"normalised images of shape {images.shape}; expected (B, H, W, "
                    f"{self.channels}), as `preprocess` returns"
                )
            return _of_normalised(self.bare, images)
        return _of_crops(self.bare, self.crop(images))

    def at(self, stage: int | str | None = None, pool: str | None = None) -> Self:
        """Return the same encoder, read at another layer: a number, or a name in `layers`.

        Raises:
          UserError: no such layer or pooling.
        """
        layers = self.layers
        if isinstance(stage, str) and stage not in layers:
            raise UserError(
                f"no layer {stage!r} in this network; expected one of {', '.join(layers)}"
            )
        number = layers.index(stage) - len(layers) if isinstance(stage, str) else stage
        encoder = dataclasses.replace(self, probe=self.probe.at(number, pool))
        encoder.feature_shape  # noqa: B018 (raises)
        return encoder

    def crop(self, images: Any) -> Any:
        """Crop the central square of each image and resize it to uint8 (B, size, size, C), as in
        evaluation; see `data.decode.eval_crop`. Images that are already crops are unchanged.

        Args:
          images: uint8, (B, H, W, C), or a sequence of (H, W, C) of any sizes; greyscale (C = 1)
            and RGB images are converted to the network's channels. Also the path of an image file,
            or a sequence of paths.

        Raises:
          UserError: images of another form, or a file that is no image.
        """
        size, expected = self.view.size, (*self.view.sides, self.channels)
        if getattr(images, "ndim", 0) == 4 and images.shape[1:] == expected:
            return _uint8(images)
        several = [images] if isinstance(images, (str, os.PathLike)) else images
        if not hasattr(several, "__iter__"):
            raise UserError(
                f"images of type {type(images).__name__}; expected an array (B, H, W, C), the path "
                "of a file, or a list of either"
            )
        arrays = [
            self._decoded(Path(image))
            if isinstance(image, (str, os.PathLike))
            else _uint8(np.asarray(image))
            for image in several
        ]
        if not arrays or any(image.ndim != 3 or 0 in image.shape for image in arrays):
            shape = getattr(images, "shape", [image.shape for image in arrays[:3]])
            raise UserError(
                f"images of shape {shape}; expected (B, H, W, C), or a list of (H, W, C)"
            )
        try:
            return np.stack([eval_crop(to_channels(x, self.channels), size) for x in arrays])
        except ValueError as e:
            raise UserError(str(e)) from None

    def preprocess(self, images: Any) -> Array:
        """Crop and normalise to the network's input, float32; `images` as for `crop`."""
        return prepare(self.view, self.crop(images))

    @property
    def bare(self) -> Self:
        """The encoder without `settings` and `origin`, so that all steps of a run compile once."""
        return dataclasses.replace(self, settings="{}", origin="")

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config of the run that made the weights."""
        return json.loads(self.settings)  # type: ignore[no-any-return]

    @property
    def layers(self) -> list[str]:
        """Names of the stages, in order."""
        return jax.eval_shape(lambda e, x: e.features(x), self, self._image(1)).names

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one image's features: (D,), or (h, w, D) without pooling.

        Raises:
          UserError: `probe` names a layer or pooling that does not exist.
        """
        return jax.eval_shape(read_normalised, self, self._image(1)).shape[1:]

    def digest(self) -> str:
        """Hash the backbone's weights, independently of their layout over devices."""
        weights = {"params": self.params, "stats": self.stats}
        sums = zip(tree.named_leaves(weights).items(), _checksums(weights), strict=True)
        digest = hashlib.blake2b(digest_size=16)
        for (name, leaf), checksum in sums:
            text = f"{name} {leaf.shape} {leaf.dtype} {np.asarray(checksum).tolist()}\n"
            digest.update(text.encode())
        return digest.hexdigest()

    def __repr__(self) -> str:
        shape = "x".join(map(str, (*self.view.sides, self.channels)))
        layer = f"{self.layers[self.probe.stage]} ({self.probe.pool})"
        return (
            f"{type(self).__name__}({self.net.config.title}, {tree.count(self.params):,} "
            f"parameters; images {shape} -> {self.feature_shape} of {layer}; {self.origin})"
        )

    def _decoded(self, path: Path) -> np.ndarray:
        """Decode an image file, with the range of pixels that the run's data have."""
        value_range = self.config.get("data", {}).get("range", ())
        try:
            return decode(path.read_bytes(), self.channels, value_range=tuple(value_range))
        except (DecodeError, OSError) as e:
            reason = e.strerror if isinstance(e, OSError) else e
            raise UserError(f"{path}: {reason}") from None

    def _image(self, count: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((count, *self.view.sides, self.channels), jnp.float32)


def read_normalised(encoder: ImageEncoder, images: Array) -> Array:
    """Compute the features (B, ...) float32 of normalised images (B, H, W, C). Pure; not jitted."""
    outputs = encoder.features(images)
    if encoder.probe.pool == UNPOOLED:
        return at_least_float32(outputs.stage(encoder.probe.stage).whole_map)
    return encoder.probe.read(outputs)


def read(encoder: ImageEncoder, crops: Array) -> Array:
    """Compute the features (B, ...) float32 of the output of `ImageEncoder.crop`. Pure, not
    jitted.
    """
    return read_normalised(encoder, prepare(encoder.view, crops))


_of_normalised, _of_crops = jax.jit(read_normalised), jax.jit(read)


def _uint8(images: Any) -> Any:
    if images.dtype != np.uint8:
        raise UserError(f"images are {images.dtype}; expected uint8, 0 to 255")
    return images


@jax.jit
def _checksums(weights: tree.Tree) -> Sequence[Array]:
    """Return (2,) uint32 per leaf: sums over all elements of hashes of value and position."""

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
