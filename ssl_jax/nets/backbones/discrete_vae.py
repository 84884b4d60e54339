"""A small discrete VAE of strided convolutions, encoder and decoder."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
from flax import nnx

from ssl_jax.core.ranges import Count, Whole
from ssl_jax.core.tree import Array
from ssl_jax.nets.backbone import Backbone, scaled_width
from ssl_jax.nets.features import Features, Stage
from ssl_jax.nets.functional import Net, functional
from ssl_jax.nets.layers import DType, at_least_float32, compute_dtype, normal, torch_default


@dataclass(frozen=True)
class Config(Backbone):
    """4x4 convolutions of stride 2 with ReLU, and residual blocks. The decoder mirrors them.

    The defaults are those of microsoft/unilm, beit/modeling_discrete_vae.py; `order="end"` is
    lucidrains/DALLE-pytorch.

    Attributes:
      layers: strided convolutions; each halves the sides.
      width: channels.
      blocks: residual blocks in each place.
      order: "each" has blocks after every strided layer of encoder and decoder; "end" after the
        last layer of the encoder and before the first of the decoder.
    """

    narrow: ClassVar[Mapping[str, Any]] = {"layers": 2, "width": 8}

    layers: Count = 3
    width: Count = 256
    _: KW_ONLY
    blocks: Whole = 1
    order: Literal["each", "end"] = "each"

    @property
    def num_layers(self) -> int:
        return self.layers - 1  # the first reads the image

    def layer_ids(self, path: str) -> int:
        return int(path.split("/")[0].removeprefix("stage")) - 1

    def side(self, near: int) -> int:
        return max(round(near / 2**self.layers), 1) * 2**self.layers

    def scaled(self, factor: float) -> Self:
        return replace(self, width=scaled_width(self.width, factor))

    def module(self, channels: int, rngs: nnx.Rngs) -> nnx.Module:
        return StridedEncoder(self, channels, rngs)

    def decoder(self, vocabulary: int, code_dim: int, out: int) -> Net:
        """Build the decoder: weights of the codes (B, h, w, vocabulary) to (B, H, W, out)."""
        make = lambda rngs: StridedDecoder(self, vocabulary, code_dim, out, rngs)  # noqa: E731
        return functional(make, f"discrete_vae_decoder_{self.width}")


class ConvShortcut(nnx.Module):
    """Two 3x3 convolutions with ReLU and one of 1x1, beside a shortcut."""

    def __init__(self, width: int, **options: Any):
        self.conv1 = nnx.Conv(width, width, (3, 3), **_inits(9 * width), **options)
        self.conv2 = nnx.Conv(width, width, (3, 3), **_inits(9 * width), **options)
        self.conv3 = nnx.Conv(width, width, (1, 1), **_inits(width), **options)

    def __call__(self, x: Array) -> Array:
        residual = jax.nn.relu(self.conv1(x))
        return x + self.conv3(jax.nn.relu(self.conv2(residual)))


class StridedEncoder(nnx.Module):
    """See `Config`."""

    def __init__(self, config: Config, channels: int, rngs: nnx.Rngs):
        options: dict[str, Any] = {"dtype": compute_dtype(config.dtype), "rngs": rngs}
        self.layers = config.layers
        for i in range(1, config.layers + 1):
            inputs = channels if i == 1 else config.width
            setattr(self, f"stage{i}", Down(inputs, config, i == config.layers, **options))

    def __call__(self, images: Array, *, train: bool, stages: bool = False) -> Features:
        """Map images (B, H, W, C) to `Features`; the pooled ones are the mean of the last map."""
        del train
        x, outputs = images, []
        for i in range(1, self.layers + 1):
            x = getattr(self, f"stage{i}")(x)
            outputs.append(Stage(name=f"stage{i}", map=x))
        pooled = jnp.mean(at_least_float32(x), (1, 2))
        return Features(pooled=pooled, map=x, stages=tuple(outputs) if stages else ())


class Down(nnx.Module):
    """A strided convolution with ReLU, then residual blocks."""

    def __init__(self, inputs: int, config: Config, last: bool, dtype: DType, rngs: nnx.Rngs):
        width = config.width
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        inits = _inits(16 * inputs)
        self.conv = nnx.Conv(inputs, width, (4, 4), strides=2, padding=1, **inits, **options)
        count = config.blocks if last or config.order == "each" else 0
        self.blocks = nnx.List([ConvShortcut(width, **options) for _ in range(count)])

    def __call__(self, x: Array) -> Array:
        x = jax.nn.relu(self.conv(x))
        for block in self.blocks:
            x = block(x)
        return x


class StridedDecoder(nnx.Module):
    """See `Config.decoder`."""

    def __init__(self, config: Config, vocabulary: int, code_dim: int, out: int, rngs: nnx.Rngs):
        width, dtype = config.width, compute_dtype(config.dtype)
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        embed: dict[str, Any] = {
            "kernel_init": normal(1.0),
            "use_bias": False,
        }  # as PyTorch's nn.Embedding
        self.codebook = nnx.Linear(vocabulary, code_dim, **embed, **options)
        blocks = config.blocks if config.order == "end" else 0
        self.input = nnx.Linear(code_dim, width, **_inits(code_dim), **options) if blocks else None
        self.blocks = nnx.List([ConvShortcut(width, **options) for _ in range(blocks)])
        self.layers = config.layers
        for i in range(1, config.layers + 1):
            inputs = width if i > 1 or blocks else code_dim
            setattr(self, f"stage{i}", Up(inputs, config, **options))
        self.out = nnx.Linear(width, out, **_inits(width), **options)

    def __call__(self, weights: Array, *, train: bool) -> Array:
        """Decode weights (B, h, w, vocabulary), which sum to 1, to (B, H, W, out) float32."""
        del train
        x = self.codebook(weights)
        x = x if self.input is None else self.input(x)
        for block in self.blocks:
            x = block(x)
        for i in range(1, self.layers + 1):
            x = getattr(self, f"stage{i}")(x)
        return at_least_float32(self.out(x))


class Up(nnx.Module):
    """A transposed convolution that doubles the sides, with ReLU, then residual blocks."""

    def __init__(self, inputs: int, config: Config, dtype: DType, rngs: nnx.Rngs):
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        width = config.width
        # PyTorch's default for a transposed convolution counts the outputs.
        inits = _inits(16 * width)
        # As in `nets.convolutional.Upsampler`: ConvTranspose2d(4, stride=2, padding=1) of PyTorch.
        pad = ((2, 2), (2, 2))
        self.conv = nnx.ConvTranspose(
            inputs, width, (4, 4), strides=2, padding=pad, **inits, **options
        )
        count = config.blocks if config.order == "each" else 0
        self.blocks = nnx.List([ConvShortcut(width, **options) for _ in range(count)])

    def __call__(self, x: Array) -> Array:
        x = jax.nn.relu(self.conv(x))
        for block in self.blocks:
            x = block(x)
        return x


def _inits(fan_in: int) -> dict[str, Any]:
    init = torch_default(fan_in)
    return {"kernel_init": init, "bias_init": init}


make = Config.make
