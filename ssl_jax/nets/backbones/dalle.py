"""The discrete VAE of DALL-E (Ramesh et al. 2021, arXiv:2102.12092): encoder and decoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import nnx

from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count
from ssl_jax.core.tree import Array
from ssl_jax.nets.backbone import Backbone, scaled_width
from ssl_jax.nets.features import Features, Stage
from ssl_jax.nets.functional import Net, functional
from ssl_jax.nets.layers import DType, at_least_float32, compute_dtype, normal

GROUPS = (1, 2, 4, 8)  # widths of the groups; the sides halve between them


@dataclass(frozen=True)
class Config(Backbone):
    """Four groups of residual blocks with 1, 2, 4 and 8 times `width` channels; the map has an
    eighth of the image's sides. openai/DALL-E, dall_e/encoder.py and decoder.py.

    Attributes:
      width: channels of the first group, divisible by 4.
      blocks: residual blocks of each group.
    """

    narrow: ClassVar[Mapping[str, Any]] = {"width": 8, "blocks": 1}

    width: Count = 256
    blocks: Count = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % 4:
            raise UserError(f"backbone.width: expected a multiple of 4, got {self.width}")

    @property
    def num_layers(self) -> int:
        return len(GROUPS)

    def layer_ids(self, path: str) -> int:
        module = path.split("/")[0]
        return int(module.removeprefix("group")) if module.startswith("group") else 0

    def side(self, near: int) -> int:
        return max(round(near / 8), 1) * 8

    def scaled(self, factor: float) -> Self:
        return replace(self, width=scaled_width(self.width, factor))

    def module(self, channels: int, rngs: nnx.Rngs) -> nnx.Module:
        return DalleEncoder(self, channels, rngs)

    def decoder(self, vocabulary: int, code_dim: int, out: int) -> Net:
        """Build the decoder: weights of the codes (B, h, w, vocabulary) to (B, 8h, 8w, out)."""
        make = lambda rngs: DalleDecoder(self, vocabulary, code_dim, out, rngs)  # noqa: E731
        return functional(make, f"dalle_decoder_{self.width}")


def conv(features_in: int, features: int, kernel: int, dtype: DType, rngs: nnx.Rngs) -> nnx.Conv:
    """Create a convolution that keeps the sides, N(0, 1 / sqrt(fan in)), bias 0."""
    init = normal((features_in * kernel * kernel) ** -0.5)
    size = (kernel, kernel)
    return nnx.Conv(features_in, features, size, kernel_init=init, dtype=dtype, rngs=rngs)


class ResidualConvs(nnx.Module):
    """`shortcut(x) + gain * residual(x)`, the residual of four convolutions with ReLU before each;
    the first three have a quarter of the channels.
    """

    def __init__(
        self, inputs: int, width: int, kernels: Sequence[int], gain: float, **options: Any
    ):
        self.gain = gain
        self.shortcut = None if inputs == width else conv(inputs, width, 1, **options)
        widths = (inputs, width // 4, width // 4, width // 4, width)
        for i, kernel in enumerate(kernels):
            setattr(self, f"conv{i + 1}", conv(widths[i], widths[i + 1], kernel, **options))

    def __call__(self, x: Array) -> Array:
        residual = x
        for i in range(1, 5):
            residual = getattr(self, f"conv{i}")(jax.nn.relu(residual))
        return (x if self.shortcut is None else self.shortcut(x)) + self.gain * residual


class ConvGroup(nnx.Module):
    """Residual blocks of one width."""

    def __init__(self, config: Config, inputs: int, width: int, kernels: Sequence[int], **o: Any):
        gain = (len(GROUPS) * config.blocks) ** -2.0
        each = [inputs] + [width] * (config.blocks - 1)
        self.blocks = nnx.List(
            [ResidualConvs(channels, width, kernels, gain, **o) for channels in each]
        )

    def __call__(self, x: Array) -> Array:
        for block in self.blocks:
            x = block(x)
        return x


class DalleEncoder(nnx.Module):
    """See `Config`."""

    def __init__(self, config: Config, channels: int, rngs: nnx.Rngs):
        options: dict[str, Any] = {"dtype": compute_dtype(config.dtype), "rngs": rngs}
        self.input = conv(channels, config.width, 7, **options)
        inputs = config.width
        for i, factor in enumerate(GROUPS, 1):
            width = factor * config.width
            setattr(self, f"group{i}", ConvGroup(config, inputs, width, (3, 3, 3, 1), **options))
            inputs = width

    def __call__(self, images: Array, *, train: bool, stages: bool = False) -> Features:
        """Map images (B, H, W, C) to `Features`; the last map has passed a ReLU, and the logits of
        the codes are a linear map of it.
        """
        del train
        x, outputs = self.input(images), []
        for i in range(1, len(GROUPS) + 1):
            if i > 1:
                x = nnx.max_pool(x, (2, 2), strides=(2, 2))
            x = getattr(self, f"group{i}")(x)
            if i == len(GROUPS):
                x = jax.nn.relu(x)
            outputs.append(Stage(name=f"group{i}", map=x))
        pooled = jnp.mean(at_least_float32(x), (1, 2))
        return Features(pooled=pooled, map=x, stages=tuple(outputs) if stages else ())


class DalleDecoder(nnx.Module):
    """See `Config.decoder`."""

    def __init__(self, config: Config, vocabulary: int, code_dim: int, out: int, rngs: nnx.Rngs):
        options: dict[str, Any] = {"dtype": compute_dtype(config.dtype), "rngs": rngs}
        self.codebook = conv(vocabulary, code_dim, 1, **options)
        inputs = code_dim
        for i, factor in enumerate(reversed(GROUPS), 1):
            width = factor * config.width
            setattr(self, f"group{i}", ConvGroup(config, inputs, width, (1, 3, 3, 3), **options))
            inputs = width
        self.out = conv(inputs, out, 1, **options)

    def __call__(self, weights: Array, *, train: bool) -> Array:
        """Decode weights (B, h, w, vocabulary), which sum to 1, to (B, 8h, 8w, out) float32."""
        del train
        x = self.codebook(weights)
        for i in range(1, len(GROUPS) + 1):
            if i > 1:
                x = x.repeat(2, axis=1).repeat(2, axis=2)
            x = getattr(self, f"group{i}")(x)
        return at_least_float32(self.out(jax.nn.relu(x)))


make = Config.make
