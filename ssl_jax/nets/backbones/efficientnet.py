"""EfficientNet (Tan & Le 2019, arXiv:1905.11946): inverted residual blocks with squeeze and
excitation, scaled in width, depth and image size together.
"""

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
from flax import nnx

from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.ranges import BelowOne, Count, Positive
from ssl_jax.core.tree import Array
from ssl_jax.nets.backbone import Backbone, scaled_width
from ssl_jax.nets.drop_path import check_rate, drop, factors
from ssl_jax.nets.features import Features, Stage
from ssl_jax.nets.layers import BatchNorm, DType, at_least_float32, compute_dtype, normal

Padding = Literal["symmetric", "same"]
SIZES: Mapping[str, tuple[float, float]] = {  # factors of the widths and of the depths
    "b0": (1.0, 1.0),
    "b1": (1.0, 1.1),
    "b2": (1.1, 1.2),
    "b3": (1.2, 1.4),
    "b4": (1.4, 1.8),
    "b5": (1.6, 2.2),
    "b6": (1.8, 2.6),
    "b7": (2.0, 3.1),
}


class StagePlan(NamedTuple):
    """One row of the paper's table 1: blocks of one stage of B0."""

    depth: int
    width: int
    kernel: int
    stride: int
    expansion: int


class Sizes(NamedTuple):
    """Sizes of a network: depths and widths of the stages, width of the ends."""

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    stem_width: int
    head_width: int


TABLE = (
    StagePlan(1, 16, 3, 1, 1),
    StagePlan(2, 24, 3, 2, 6),
    StagePlan(2, 40, 5, 2, 6),
    StagePlan(3, 80, 3, 2, 6),
    StagePlan(3, 112, 5, 1, 6),
    StagePlan(4, 192, 5, 2, 6),
    StagePlan(1, 320, 3, 1, 6),
)
STEM_WIDTH, HEAD_WIDTH = 32, 1280  # of B0


def rounded(width: float) -> int:
    """Return the multiple of 8 nearest to a width, at least 90 % of it."""
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * width else nearest


@dataclass(frozen=True)
class Config(Backbone):
    """An EfficientNet. Outputs: `EfficientNet.__call__`; input besides the images: `stages`.

    Attributes:
      size: a published size, "b0" to "b7"; or None, which requires depths and widths.
      stem: the first convolution: "imagenet" 3x3 stride 2, "cifar" 3x3 stride 1.
      depths, widths: blocks and width of each stage, at most seven, whose kernels, strides and
        expansions are those of the paper's table 1.
      stem_width, head_width: widths of the first and of the last convolution; by default those of
        the size, or without one the width of the first stage and 4 times that of the last.
      padding: of convolutions with stride: "symmetric" (PyTorch's), or TensorFlow's "same", which
        pads even sides at their end only, for weights that were trained there.
      norm_eps: epsilon of the batch norms; TensorFlow's have 0.001.
      drop_path: rate of stochastic depth, at which the last block's branch is dropped for a
        training example; it falls to 0 in the first block. The method must draw it.

    Raises:
      UserError: an unknown size, another number of depths than of widths, or too many of them.
    """

    narrow: ClassVar[Mapping[str, Any]] = {"size": None, "depths": (1, 2), "widths": (8, 16)}
    layout: ClassVar[str] = "efficientnet"

    size: str | None = "b0"
    stem: Literal["imagenet", "cifar"] = "imagenet"
    _: KW_ONLY
    depths: tuple[Count, ...] | None = None
    widths: tuple[Count, ...] | None = None
    stem_width: Count | None = None
    head_width: Count | None = None
    padding: Padding = "symmetric"
    norm_eps: Positive = 1e-5
    drop_path: BelowOne = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None and self.size not in SIZES:
            raise UserError(f"no EfficientNet of size {self.size!r}; {suggest(self.size, SIZES)}")
        if self.size is None and (self.depths is None or self.widths is None):
            raise UserError("an EfficientNet with size=None needs depths and widths")
        sizes = self.sizes
        if len(sizes.depths) != len(sizes.widths) or not 1 <= len(sizes.depths) <= len(TABLE):
            raise UserError(
                f"backbone.depths: {sizes.depths} with widths {sizes.widths}; give a depth and a "
                f"width for each of 1 to {len(TABLE)} stages"
            )
        check_rate(self.drop_path, sum(sizes.depths))

    @property
    def sizes(self) -> Sizes:
        """Depths and widths: the own ones, else those of the published size."""
        if self.size is None:
            depths, widths = self.depths or (), self.widths or (1,)
            stem, head = widths[0], 4 * widths[-1]
        else:
            wide, deep = SIZES[self.size]
            depths = self.depths or tuple(math.ceil(deep * plan.depth) for plan in TABLE)
            widths = self.widths or tuple(rounded(wide * plan.width) for plan in TABLE)
            stem, head = rounded(wide * STEM_WIDTH), rounded(wide * HEAD_WIDTH)
        return Sizes(depths, widths, self.stem_width or stem, self.head_width or head)

    @property
    def title(self) -> str:
        return f"efficientnet_{self.size or 'x'.join(map(str, self.widths or ()))}"

    @property
    def num_layers(self) -> int:
        """Number of stages; as in a ResNet, a layer is a stage."""
        return len(self.sizes.depths)

    def layer_ids(self, path: str) -> int:
        module = path.split("/")[0]
        ends = {"stem": 0, "head": self.num_layers + 1}
        return ends[module] if module in ends else int(module.removeprefix("stage"))

    def scaled(self, factor: float) -> Self:
        if factor == 1:
            return self
        depths, widths, stem, head = self.sizes
        return replace(
            self,
            depths=depths,
            widths=tuple(scaled_width(width, factor) for width in widths),
            stem_width=scaled_width(stem, factor),
            head_width=scaled_width(head, factor),
        )

    def explicit(self) -> Self:
        return replace(self, **self.sizes._asdict())

    def module(self, channels: int, rngs: nnx.Rngs) -> "EfficientNet":
        return EfficientNet(self, channels, rngs)


class ConvBatchNorm(nnx.Module):
    """Convolution without bias, then batch norm; `kernel` is odd."""

    def __init__(
        self,
        channels: int,
        features: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        *,
        config: Config,
        rngs: nnx.Rngs,
    ):
        fan_out = kernel * kernel * features // groups
        self.conv = nnx.Conv(
            channels,
            features,
            (kernel, kernel),
            strides=stride,
            padding="SAME" if config.padding == "same" else kernel // 2,
            feature_group_count=groups,
            use_bias=False,
            kernel_init=normal(math.sqrt(2 / fan_out)),
            dtype=compute_dtype(config.dtype),
            rngs=rngs,
        )
        self.norm = BatchNorm(features, eps=config.norm_eps)

    def __call__(self, x: Array, *, train: bool) -> Array:
        return self.norm(self.conv(x), train=train)


class SqueezeExcitation(nnx.Module):
    """Factors of the channels of a map from its mean (Hu et al. 2018, arXiv:1709.01507)."""

    def __init__(self, features: int, inner: int, *, dtype: DType, rngs: nnx.Rngs):
        def layer(features_in: int, features: int) -> nnx.Conv:
            init = normal(math.sqrt(2 / features))
            return nnx.Conv(features_in, features, (1, 1), kernel_init=init, dtype=dtype, rngs=rngs)

        self.reduce, self.expand = layer(features, inner), layer(inner, features)

    def __call__(self, x: Array) -> Array:
        mean = jnp.mean(at_least_float32(x), (1, 2), keepdims=True).astype(x.dtype)
        return x * jax.nn.sigmoid(self.expand(jax.nn.silu(self.reduce(mean))))


class InvertedResidual(nnx.Module):
    """A 1x1 convolution that widens, a depthwise one, squeeze and excitation, and a 1x1 convolution
    that narrows, beside a shortcut where the shape stays.
    """

    def __init__(
        self, channels: int, features: int, plan: StagePlan, *, config: Config, rngs: nnx.Rngs
    ):
        inner = channels * plan.expansion
        options: dict[str, Any] = {"config": config, "rngs": rngs}
        self.expand = ConvBatchNorm(channels, inner, **options) if plan.expansion > 1 else None
        self.depthwise = ConvBatchNorm(inner, inner, plan.kernel, plan.stride, inner, **options)
        narrowest = max(1, round(channels / 4))
        dtype = compute_dtype(config.dtype)
        self.excite = SqueezeExcitation(inner, narrowest, dtype=dtype, rngs=rngs)
        self.project = ConvBatchNorm(inner, features, **options)
        self.has_shortcut = plan.stride == 1 and channels == features

    def __call__(self, x: Array, branch_factor: Array | None = None, *, train: bool) -> Array:
        """`branch_factor` (B,): factor of the branch, where there is a shortcut."""
        branch = x
        if self.expand is not None:
            branch = jax.nn.silu(self.expand(branch, train=train))
        branch = self.excite(jax.nn.silu(self.depthwise(branch, train=train)))
        branch = self.project(branch, train=train)
        return x + drop(branch, branch_factor) if self.has_shortcut else branch


class EfficientNet(nnx.Module):
    """See `Config` for the options and `__call__` for the outputs."""

    def __init__(self, config: Config, channels: int, rngs: nnx.Rngs):
        options: dict[str, Any] = {"config": config, "rngs": rngs}
        depths, widths, stem, head = config.sizes
        self.depth, self.drop_path = sum(depths), config.drop_path
        self.num_stages = len(depths)
        stride = 2 if config.stem == "imagenet" else 1
        self.stem = ConvBatchNorm(channels, stem, 3, stride, **options)
        features = stem
        for s, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for b in range(depth):
                plan = TABLE[s] if b == 0 else TABLE[s]._replace(stride=1)
                blocks.append(InvertedResidual(features, width, plan, **options))
                features = width
            setattr(self, f"stage{s + 1}", nnx.List(blocks))
        self.head = ConvBatchNorm(features, head, **options)

    def __call__(
        self, images: Array, keys: Array | None = None, *, train: bool, stages: bool = False
    ) -> Features:
        """Map images (B, H, W, C) to the map of the last, 1x1 convolution (B, h, w, D) and its
        mean. With `stages` also return the map of every stage, "stage1", .., and "head".

        `keys` (B,) are for `drop_path` in training.
        """
        branch_factor = factors(keys, self.drop_path if train else 0.0, self.depth)
        each = iter([None] * self.depth if branch_factor is None else branch_factor[:, 0])
        x, named = jax.nn.silu(self.stem(images, train=train)), []
        for s in range(1, self.num_stages + 1):
            for block in getattr(self, f"stage{s}"):
                x = block(x, next(each), train=train)
            named.append(Stage(name=f"stage{s}", map=x))
        x = jax.nn.silu(self.head(x, train=train))
        named.append(Stage(name="head", map=x))
        pooled = jnp.mean(at_least_float32(x), (1, 2))
        return Features(pooled=pooled, map=x, stages=tuple(named) if stages else ())


make = Config.make
