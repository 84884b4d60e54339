"""AlexNet with batch norm, for early pretext tasks (Krizhevsky et al. 2012; arXiv:1807.05520)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
from flax import nnx

from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count
from ssl_jax.core.tree import Array
from ssl_jax.nets.backbone import Backbone, scaled_width
from ssl_jax.nets.features import Features, Stage
from ssl_jax.nets.layers import BatchNorm, at_least_float32, compute_dtype

# Side, stride and padding of the kernels of conv1 to conv5.
STEMS = {"imagenet": (11, 4, 2), "small": (3, 1, 1)}
LATER = ((5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))
POOLED = (2, 3)  # convolutions that read a max-pooled map, 3x3 with stride 2
INIT = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


@dataclass(frozen=True)
class Config(Backbone):
    """conv1 to conv5, in one group each; batch norm and ReLU follow every convolution.

    The stages are the five maps that linear probes of this network read (Zhang et al. 2016): after
    ReLU and before a max-pooling. The papers flatten the last one, pooled to 6 x 6, into two layers
    of 4096 (fc6, fc7), which their probes leave out. Here the pooled output is the mean of the last
    map, as of every other network without tokens, so images may have any size.

    Attributes:
      widths: channels of the five maps: DeepCluster's; RotNet has (64, 192, 384, 256, 256).
      stem: "imagenet" is a kernel of 11 x 11 with stride 4, "small" one of 3 x 3 with stride 1, for
        images below 64 px.
    """

    narrow: ClassVar[Mapping[str, Any]] = {"widths": (4, 4, 8, 8, 8), "stem": "small"}

    widths: tuple[Count, ...] = (96, 256, 384, 384, 256)
    stem: Literal["imagenet", "small"] = "imagenet"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.widths) != len(LATER) + 1:
            raise UserError(f"backbone.widths: expected 5 widths, got {len(self.widths)}")

    @property
    def num_layers(self) -> int:
        return len(LATER)

    def layer_ids(self, path: str) -> int:
        return int(path.split("/")[0][-1]) - 1  # conv1 and norm1 read the image

    def scaled(self, factor: float) -> Self:
        return replace(self, widths=tuple(scaled_width(width, factor) for width in self.widths))

    def module(self, channels: int, rngs: nnx.Rngs) -> nnx.Module:
        return AlexNet(self, channels, rngs)


class AlexNet(nnx.Module):
    """See `Config`."""

    def __init__(self, config: Config, channels: int, rngs: nnx.Rngs):
        kernels = (STEMS[config.stem], *LATER)
        for i, (width, (side, stride, padding)) in enumerate(
            zip(config.widths, kernels, strict=True), 1
        ):
            layer = nnx.Conv(
                channels,
                width,
                (side, side),
                strides=stride,
                padding=padding,
                use_bias=False,  # the norm's
                kernel_init=INIT,
                dtype=compute_dtype(config.dtype),
                rngs=rngs,
            )
            setattr(self, f"conv{i}", layer)
            setattr(self, f"norm{i}", BatchNorm(width))
            channels = width

    def __call__(self, images: Array, *, train: bool, stages: bool = False) -> Features:
        """Map images (B, H, W, C) to `Features`; the pooled ones are the mean of conv5's map.

        Raises:
          UserError: images too small for the two poolings.
        """
        x, outputs = images, []
        for i in range(1, len(LATER) + 2):
            if i in POOLED:
                if min(x.shape[1:3]) < 3:
                    raise UserError(
                        f"alexnet: images of {images.shape[1]} x {images.shape[2]} px are too "
                        "small; use larger ones, or backbone.stem='small' from 7 px on"
                    )
                x = nnx.max_pool(x, (3, 3), strides=(2, 2))
            x = getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(x), train=train)
            x = jax.nn.relu(x)
            outputs.append(Stage(name=f"conv{i}", map=x))
        pooled = jnp.mean(at_least_float32(x), (1, 2))
        return Features(pooled=pooled, map=x, stages=tuple(outputs) if stages else ())


make = Config.make
