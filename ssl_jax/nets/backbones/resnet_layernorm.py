"""Residual networks of the second version, with layer norm in place of batch norm.

Norm and ReLU come before each convolution (He et al. 2016, arXiv:1603.05027). Nothing mixes the
images of a batch, so a patch's output depends on that patch alone (arXiv:1905.09272, section 3.1).
"""

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
from ssl_jax.nets.layers import DType, LayerNorm, at_least_float32, compute_dtype, conv


@dataclass(frozen=True)
class Config(Backbone):
    """A residual network of bottleneck blocks; by default ResNet-101 up to its third stage.

    ResNet-161 of CPC v2 is blocks (3, 4, 46), filters (64, 128, 512), widths (256, 512, 4096).

    Attributes:
      blocks: blocks of each stage; every stage but the first halves the resolution.
      filters: width of the 3x3 convolutions of each stage; the stem's is that of the first.
      widths: width of each stage's output.
      stem: "imagenet" 7x7 stride 2 and 3x3 max pool stride 2; "cifar" 3x3 stride 1; "small" 3x3
        stride 2, no pool.

    Raises:
      UserError: not one number of blocks, filters and widths per stage.
    """

    narrow: ClassVar[Mapping[str, Any]] = {
        "blocks": (1, 1),
        "filters": (8, 8),
        "widths": (16, 32),
        "stem": "small",
    }

    blocks: tuple[Count, ...] = (3, 4, 23)
    filters: tuple[Count, ...] = (64, 128, 256)
    widths: tuple[Count, ...] = (256, 512, 1024)
    stem: Literal["imagenet", "cifar", "small"] = "imagenet"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not len(self.blocks) == len(self.filters) == len(self.widths) > 0:
            raise UserError(
                f"backbone: expected one number per stage, got blocks {self.blocks}, filters "
                f"{self.filters}, widths {self.widths}"
            )

    @property
    def title(self) -> str:
        return f"resnet{3 * sum(self.blocks) + 2}_layernorm"

    @property
    def num_layers(self) -> int:
        return len(self.blocks)

    def layer_ids(self, path: str) -> int:
        """A layer is a stage, as the blocks of a ResNet are many and its stages few."""
        module = path.split("/")[0]
        ends = {"stem": 0, "norm": self.num_layers + 1}
        return ends[module] if module in ends else int(module.removeprefix("stage"))

    def scaled(self, factor: float) -> Self:
        filters, widths = (
            tuple(scaled_width(width, factor) for width in every)
            for every in (self.filters, self.widths)
        )
        return replace(self, filters=filters, widths=widths)

    def module(self, channels: int, rngs: nnx.Rngs) -> nnx.Module:
        return LayerNormResNet(self, channels, rngs)


class PreActivationBlock(nnx.Module):
    """1x1, 3x3 and 1x1 convolution, each after a norm and a ReLU, beside a shortcut."""

    def __init__(
        self, channels: int, filters: int, width: int, stride: int, *, dtype: DType, rngs: nnx.Rngs
    ):
        layers = ((channels, filters, 1, 1), (filters, filters, 3, stride), (filters, width, 1, 1))
        self.norms = nnx.List([LayerNorm(layer[0]) for layer in layers])
        self.convs = nnx.List([conv(*layer, dtype=dtype, rngs=rngs) for layer in layers])
        projects = stride != 1 or channels != width
        self.shortcut = (
            conv(channels, width, 1, stride, dtype=dtype, rngs=rngs) if projects else None
        )

    def __call__(self, x: Array) -> Array:
        y = jax.nn.relu(self.norms[0](x))
        shortcut = x if self.shortcut is None else self.shortcut(y)
        y = self.convs[0](y)
        for norm, layer in zip(self.norms[1:], self.convs[1:], strict=True):
            y = layer(jax.nn.relu(norm(y)))
        return shortcut + y


class LayerNormResNet(nnx.Module):
    """Stem, stages of blocks, norm; `Config` has the options, `__call__` the outputs."""

    def __init__(self, config: Config, channels: int, rngs: nnx.Rngs):
        dtype = compute_dtype(config.dtype)
        kernel, stride = {"imagenet": (7, 2), "cifar": (3, 1), "small": (3, 2)}[config.stem]
        self.pool, self.num_stages = config.stem == "imagenet", len(config.blocks)
        features = config.filters[0]
        self.stem = conv(channels, features, kernel, stride, dtype=dtype, rngs=rngs)
        sizes = zip(config.blocks, config.filters, config.widths, strict=True)
        for s, (count, filters, width) in enumerate(sizes):
            blocks = []
            for b in range(count):
                stride = 2 if s > 0 and b == 0 else 1
                blocks.append(
                    PreActivationBlock(features, filters, width, stride, dtype=dtype, rngs=rngs)
                )
                features = width
            setattr(self, f"stage{s + 1}", nnx.List(blocks))
        self.norm = LayerNorm(features)

    def __call__(self, images: Array, *, train: bool, stages: bool = False) -> Features:
        """Map images (B, H, W, C) to the last map (B, h, w, c), after its norm and ReLU, and its
        mean; with `stages` also to the map of every stage, "stage1", ...
        """
        del train
        x = self.stem(images)
        if self.pool:
            x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        named = []
        for s in range(1, self.num_stages + 1):
            for block in getattr(self, f"stage{s}"):
                x = block(x)
            if s == self.num_stages:
                x = jax.nn.relu(self.norm(x))
            named.append(Stage(name=f"stage{s}", map=x))
        pooled = jnp.mean(at_least_float32(x), (1, 2))
        return Features(pooled=pooled, map=x, stages=tuple(named) if stages else ())


make = Config.make
