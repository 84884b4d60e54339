"""The residual network that translates images: an encoder, and a decoder back to an image.

Johnson et al. 2016 (arXiv:1603.08155) in the form of CUT's release (2007.15651; models/networks.py
ResnetGenerator), with instance norm and resampling that does not alias.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import nnx

from ssl_jax.core.ranges import Count
from ssl_jax.core.tree import Array
from ssl_jax.nets.backbone import Backbone, scaled_width
from ssl_jax.nets.features import Features, Stage
from ssl_jax.nets.functional import Net, functional
from ssl_jax.nets.layers import at_least_float32, compute_dtype
from ssl_jax.nets.resampling import doubled, halved, instance_norm, reflected, xavier_conv


@dataclass(frozen=True)
class Config(Backbone):
    """A 7x7 convolution, `halvings` 3x3 convolutions that double the width and halve the sides, and
    residual blocks; by default resnet_9blocks. The decoder mirrors it.

    The stages are what CUT compares: the convolutions of the halvings before their norm, and the
    outputs of the blocks.

    Attributes:
      blocks: residual blocks.
      width: channels of the first convolution.
      halvings: halvings of the sides.
    """

    narrow: ClassVar[Mapping[str, Any]] = {"blocks": 2, "width": 4}

    blocks: Count = 9
    width: Count = 64
    halvings: Count = 2

    @property
    def num_layers(self) -> int:
        return self.halvings + self.blocks

    def layer_ids(self, path: str) -> int:
        module = path.split("/")[0]
        if module.startswith("down"):
            return int(module.removeprefix("down"))
        if module == "blocks":
            return self.halvings + 1 + int(path.split("/")[1])
        return 0

    def side(self, near: int) -> int:
        return max(round(near / 2**self.halvings), 2) * 2**self.halvings

    def scaled(self, factor: float) -> Self:
        return replace(self, width=scaled_width(self.width, factor))

    def module(self, channels: int, rngs: nnx.Rngs) -> nnx.Module:
        return GeneratorEncoder(self, channels, rngs)

    def image_decoder(self, out: int) -> Net:
        """Build the second half: the last map (B, h, w, D) to images (B, H, W, out) in [-1, 1]."""
        make = lambda rngs: GeneratorDecoder(self, out, rngs)  # noqa: E731
        return functional(make, f"generator_decoder_{self.width}")


class InstanceNormBlock(nnx.Module):
    """Two 3x3 convolutions with instance norm, padded by reflection, beside a shortcut."""

    def __init__(self, width: int, **options: Any):
        self.conv1 = xavier_conv(width, width, 3, bias=False, padding=0, **options)
        self.conv2 = xavier_conv(width, width, 3, bias=False, padding=0, **options)

    def __call__(self, x: Array) -> Array:
        hidden = jax.nn.relu(instance_norm(self.conv1(reflected(x, 1))))
        return x + instance_norm(self.conv2(reflected(hidden, 1)))


class GeneratorEncoder(nnx.Module):
    """See `Config`."""

    def __init__(self, config: Config, channels: int, rngs: nnx.Rngs):
        options: dict[str, Any] = {"dtype": compute_dtype(config.dtype), "rngs": rngs}
        self.halvings, width = config.halvings, config.width
        self.stem = xavier_conv(channels, width, 7, bias=False, padding=0, **options)
        for i in range(1, config.halvings + 1):
            conv = xavier_conv(width, 2 * width, 3, bias=True, padding=1, **options)
            setattr(self, f"down{i}", conv)
            width *= 2
        self.blocks = nnx.List([InstanceNormBlock(width, **options) for _ in range(config.blocks)])

    def __call__(self, images: Array, *, train: bool, stages: bool = False) -> Features:
        """Map images (B, H, W, C) to `Features`.

        The pooled features are the means of the last map's positive parts: those of the map itself
        would be the same after every block, whose instance norm has mean 0.
        """
        del train
        outputs = []
        x = jax.nn.relu(instance_norm(self.stem(reflected(images, 3))))
        for i in range(1, self.halvings + 1):
            x = getattr(self, f"down{i}")(x)
            outputs.append(Stage(name=f"down{i}", map=x))
            x = halved(jax.nn.relu(instance_norm(x)))
        for i, block in enumerate(self.blocks, 1):
            x = block(x)
            outputs.append(Stage(name=f"block{i}", map=x))
        pooled = jnp.mean(jax.nn.relu(at_least_float32(x)), (1, 2))
        return Features(pooled=pooled, map=x, stages=tuple(outputs) if stages else ())


class GeneratorDecoder(nnx.Module):
    """See `Config.image_decoder`."""

    def __init__(self, config: Config, out: int, rngs: nnx.Rngs):
        options: dict[str, Any] = {"dtype": compute_dtype(config.dtype), "rngs": rngs}
        self.halvings, width = config.halvings, config.width * 2**config.halvings
        for i in range(1, config.halvings + 1):
            conv = xavier_conv(width, width // 2, 3, bias=False, padding=1, **options)
            setattr(self, f"up{i}", conv)
            width //= 2
        self.out = xavier_conv(width, out, 7, bias=True, padding=0, **options)

    def __call__(self, x: Array, *, train: bool) -> Array:
        """Decode a map (B, h, w, D) to images (B, H, W, out) float32 in [-1, 1]."""
        del train
        for i in range(1, self.halvings + 1):
            x = jax.nn.relu(instance_norm(getattr(self, f"up{i}")(doubled(x))))
        return jnp.tanh(at_least_float32(self.out(reflected(x, 3))))


make = Config.make
