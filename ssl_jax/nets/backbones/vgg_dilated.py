"""A VGG with dilated convolutions (Zhang et al. 2016, arXiv:1603.08511)."""

from collections.abc import Mapping
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
from ssl_jax.nets.layers import BatchNorm, at_least_float32, compute_dtype, torch_default

# Number of 3x3 convolutions, stride of the last one, and their dilation.
STAGES = ((2, 2, 1), (2, 2, 1), (3, 2, 1), (3, 1, 1), (3, 1, 2), (3, 1, 2), (3, 1, 1))


@dataclass(frozen=True)
class Config(Backbone):
    """conv1 to conv7 of the network for colorization, whose map has an eighth of the image's sides.

    ReLU follows each convolution and batch norm each stage, as in the authors' PyTorch port
    (colorizers/eccv16.py); their Caffe net has no scale and shift there.

    Attributes:
      widths: channels of each of the seven stages.
    """

    narrow: ClassVar[Mapping[str, Any]] = {"widths": (4, 4, 8, 8, 8, 8, 8)}

    widths: tuple[Count, ...] = (64, 128, 256, 512, 512, 512, 512)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.widths) != len(STAGES):
            raise UserError(
                f"backbone.widths: expected {len(STAGES)} widths, got {len(self.widths)}"
            )

    @property
    def num_layers(self) -> int:
        return len(STAGES) - 1

    def layer_ids(self, path: str) -> int:
        return int(path.split("/")[0].removeprefix("stage")) - 1  # the first reads the image

    def scaled(self, factor: float) -> Self:
        return replace(self, widths=tuple(scaled_width(width, factor) for width in self.widths))

    def module(self, channels: int, rngs: nnx.Rngs) -> nnx.Module:
        return VggDilated(self, channels, rngs)


class ConvBlock(nnx.Module):
    """Convolutions with ReLU, then batch norm; the last convolution has the stride."""

    def __init__(
        self, channels: int, width: int, layers: int, stride: int, dilation: int, **options: Any
    ):
        self.layers = layers
        for i in range(1, layers + 1):
            inputs = channels if i == 1 else width
            init = torch_default(9 * inputs)
            layer = nnx.Conv(
                inputs,
                width,
                (3, 3),
                strides=stride if i == layers else 1,
                padding=dilation,
                kernel_dilation=dilation,
                kernel_init=init,
                bias_init=init,
                **options,
            )
            setattr(self, f"conv{i}", layer)
        self.norm = BatchNorm(width)

    def __call__(self, x: Array, *, train: bool) -> Array:
        for i in range(1, self.layers + 1):
            x = jax.nn.relu(getattr(self, f"conv{i}")(x))
        return self.norm(x, train=train)


class VggDilated(nnx.Module):
    """See `Config`."""

    def __init__(self, config: Config, channels: int, rngs: nnx.Rngs):
        options: dict[str, Any] = {"dtype": compute_dtype(config.dtype), "rngs": rngs}
        for i, (width, sizes) in enumerate(zip(config.widths, STAGES, strict=True), 1):
            setattr(self, f"stage{i}", ConvBlock(channels, width, *sizes, **options))
            channels = width

    def __call__(self, images: Array, *, train: bool, stages: bool = False) -> Features:
        """Map images (B, H, W, C) to `Features`; the pooled ones are the mean of the last map."""
        x, outputs = images, []
        for i in range(1, len(STAGES) + 1):
            x = getattr(self, f"stage{i}")(x, train=train)
            outputs.append(Stage(name=f"stage{i}", map=x))
        pooled = jnp.mean(at_least_float32(x), (1, 2))
        return Features(pooled=pooled, map=x, stages=tuple(outputs) if stages else ())


make = Config.make
