"""The convolutions of agents that act on pixels (Yarats et al. 2019, arXiv:1910.01741; CURL's)."""

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
from ssl_jax.nets.layers import at_least_float32, compute_dtype, delta_orthogonal


@dataclass(frozen=True)
class Config(Backbone):
    """3x3 convolutions without padding and without norm, ReLU after each; the first has stride 2.

    Initialised as released (MishaLaskin/curl, curl_sac.py, weight_init): delta-orthogonal with the
    gain of ReLU, biases 0.

    Attributes:
      width: channels of each convolution.
      depth: number of convolutions.
    """

    narrow: ClassVar[Mapping[str, Any]] = {"width": 4, "depth": 2}

    width: Count = 32
    depth: Count = 4

    @property
    def num_layers(self) -> int:
        return self.depth - 1

    def layer_ids(self, path: str) -> int:
        return int(path.split("/")[0].removeprefix("conv")) - 1  # the first reads the image

    def side(self, near: int) -> int:
        return max(near, 2 * self.depth + 1)

    def scaled(self, factor: float) -> Self:
        return replace(self, width=scaled_width(self.width, factor))

    def module(self, channels: int, rngs: nnx.Rngs) -> nnx.Module:
        return PixelConvolutions(self, channels, rngs)


class PixelConvolutions(nnx.Module):
    """See `Config`."""

    def __init__(self, config: Config, channels: int, rngs: nnx.Rngs):
        self.depth = config.depth
        for i in range(1, config.depth + 1):
            layer = nnx.Conv(
                channels if i == 1 else config.width,
                config.width,
                (3, 3),
                strides=2 if i == 1 else 1,
                padding="VALID",
                kernel_init=delta_orthogonal(2**0.5),
                dtype=compute_dtype(config.dtype),
                rngs=rngs,
            )
            setattr(self, f"conv{i}", layer)

    def __call__(self, images: Array, *, train: bool, stages: bool = False) -> Features:
        """Map images (B, H, W, C) to `Features`; the pooled ones are the mean of the last map."""
        del train
        x, outputs = images, []
        for i in range(1, self.depth + 1):
            x = jax.nn.relu(getattr(self, f"conv{i}")(x))
            outputs.append(Stage(name=f"stage{i}", map=x))
        pooled = jnp.mean(at_least_float32(x), (1, 2))
        return Features(pooled=pooled, map=x, stages=tuple(outputs) if stages else ())


make = Config.make
