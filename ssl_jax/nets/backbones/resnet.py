"""Residual networks (He et al. 2015, arXiv:1512.03385): plain, wide, small, selective-kernel."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, Literal, Self, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import BelowOne, Count, Probability
from ssl_jax.core.tree import Array
from ssl_jax.nets.backbone import Backbone, scaled_width
from ssl_jax.nets.drop_path import check_rate, drop, factors
from ssl_jax.nets.features import Features, Stage
from ssl_jax.nets.functional import Net, functional
from ssl_jax.nets.layers import (
    BatchNorm,
    DType,
    at_least_float32,
    compute_dtype,
    conv,
    normal,
)

Stem = Literal["imagenet", "cifar", "small"]
Kind = Literal["basic", "bottleneck"]
DEPTHS: Mapping[int, tuple[Kind, tuple[int, ...]]] = {  # block, blocks of each stage
    4: ("basic", (1,)),
    8: ("basic", (1, 1, 1)),
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    92: ("bottleneck", (3, 4, 23)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}
SK_MIN_WIDTH = 32  # of the layer that mixes the two streams


@dataclass(frozen=True)
class Plan:
    """Sizes of a residual network.

    Attributes:
      kind: "basic" or "bottleneck" blocks.
      stages: blocks of each stage; every stage but the first halves the resolution.
      filters: width of each stage (a bottleneck's output is 4 times as wide).
      stem_filters: width of the stem.
      inner_width: multiplies the inner width of bottleneck blocks ("wide" ResNets).
    """

    kind: Kind
    stages: tuple[int, ...]
    filters: tuple[int, ...]
    stem_filters: int
    inner_width: int = 1


@dataclass(frozen=True)
class Config(Backbone):
    """A ResNet of a published depth. Outputs: `ResNet.__call__`; input besides the images:
    `stages`.

    Attributes:
      depth: 18, 34, 50, 101 or 152; 92 is 101 without its last stage; 8 is a net of three stages
        with one basic block each, for use on a CPU.
      width: multiplies every width (SimCLR's 2x, 4x).
      stem: "imagenet" 7x7 stride 2 and 3x3 max pool stride 2; "cifar" 3x3 stride 1; "small" 3x3
        stride 2, no pool.
      num_filters: width of the stem and of the first stage; each later stage doubles it.
      zero_init_residual: start the last batch norm of each block at 0, so that blocks start as
        identities.
      stride_in_1x1: ResNet v1 (stride in the first 1x1 of a bottleneck); False is v1.5 (in the
        3x3).
      sk_ratio: > 0 enables selective kernels, with the stem and the pooled shortcuts of ResNet-D
        (SimCLRv2: 0.0625).
      neck: widths of layers after the pooling, each linear, batch norm and ReLU; the last is then
        the network's own output, "pooled". So SimCLRv2 makes the first layer of its head a part of
        the network that is fine-tuned.
      drop_path: rate of stochastic depth, at which the last block's branch is dropped for a
        training example; it falls to 0 in the first block. The method must draw it.
      remat: what the backward pass recomputes: "none", or "convolutions", all but their outputs:
        norms, ReLUs and sums.

    Raises:
      UserError: a depth that is not listed, an unknown stem, `sk_ratio` or `stride_in_1x1` with
        basic blocks.
    """

    narrow: ClassVar[Mapping[str, Any]] = {"depth": 8, "num_filters": 8, "stem": "small"}
    layout: ClassVar[str] = "resnet"

    depth: Count = 50
    width: Count = 1
    stem: Stem = "imagenet"
    _: KW_ONLY
    num_filters: Count = 64
    zero_init_residual: bool = True
    stride_in_1x1: bool = False
    sk_ratio: Probability = 0.0
    neck: tuple[Count, ...] = ()
    drop_path: BelowOne = 0.0
    remat: Literal["none", "convolutions"] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth not in DEPTHS:
            raise UserError(
                f"no ResNet of depth {self.depth}; use one of {', '.join(map(str, DEPTHS))}"
            )
        _check(self.plan, self)

    @property
    def plan(self) -> Plan:
        """Sizes of the network."""
        kind, stages = DEPTHS[self.depth]
        base = self.num_filters * self.width
        return Plan(kind, stages, tuple(base * 2**s for s in range(len(stages))), base)

    @property
    def remat_policy(self) -> Callable[..., Any] | None:
        if self.remat == "none":
            return None
        return jax.checkpoint_policies.save_only_these_names("convolution")

    @property
    def title(self) -> str:
        wide = f"_{self.width}x" if self.width != 1 else ""
        return f"resnet{self.depth}{wide}" + ("_sk" if self.sk_ratio else "")

    @property
    def num_layers(self) -> int:
        return len(self.plan.stages)

    def layer_ids(self, path: str) -> int:
        """A layer is a stage, as the blocks of a ResNet are many and its stages few."""
        module = path.split("/")[0]
        ends = {"stem": 0, "neck": self.num_layers + 1}
        return ends[module] if module in ends else int(module.removeprefix("stage"))

    def scaled(self, factor: float) -> Self:
        neck = tuple(scaled_width(width, factor) for width in self.neck)
        return replace(self, num_filters=scaled_width(self.num_filters, factor), neck=neck)

    def module(self, channels: int, rngs: nnx.Rngs) -> "ResNet":
        return ResNet(self, self.plan, channels, rngs)


def _check(plan: Plan, config: Config) -> None:
    """Check a residual network of any stages.

    Raises:
      UserError: see `Config` and `resnet_custom`.
    """
    if plan.kind not in get_args(Kind):
        raise UserError(f"block: expected 'basic' or 'bottleneck', got {plan.kind!r}")
    if config.remat not in ("none", "convolutions"):
        raise UserError(f"remat: expected 'none' or 'convolutions', got {config.remat!r}")
    if config.stem not in get_args(Stem):
        raise UserError(f"stem: expected 'imagenet', 'cifar' or 'small', got {config.stem!r}")
    if (
        len(plan.stages) != len(plan.filters)
        or min((*plan.stages, *plan.filters, plan.stem_filters), default=0) < 1
    ):
        raise UserError(
            f"stages {plan.stages}, filters {plan.filters}: expected a positive number of each per "
            "stage"
        )
    if config.sk_ratio and plan.kind == "basic":
        raise UserError(
            f"sk_ratio={config.sk_ratio} must be >= 0, and > 0 only with bottleneck blocks (depth "
            ">= 50)"
        )
    if config.stride_in_1x1 and plan.kind == "basic":
        raise UserError(
            "stride_in_1x1 needs bottleneck blocks (depth >= 50): basic ones have no 1x1 layer"
        )
    check_rate(config.drop_path, sum(plan.stages))


class ConvNorm(nnx.Module):
    """Convolution without bias, then batch norm."""

    def __init__(
        self,
        channels: int,
        features: int,
        kernel: int,
        stride: int = 1,
        *,
        zero_scale: bool = False,
        dtype,
        rngs,
    ):
        self.conv = conv(channels, features, kernel, stride, dtype=dtype, rngs=rngs)
        self.norm = BatchNorm(features, zero_scale=zero_scale)

    def __call__(self, x: Array, *, train: bool) -> Array:
        return self.norm(checkpoint_name(self.conv(x), "convolution"), train=train)


class SelectiveKernel(nnx.Module):
    """Two 3x3 streams, mixed per channel by a softmax gate (Li et al. 2019, arXiv:1903.06586).

    The gate sees the pooled sum of the streams, both of which have 3x3 kernels as in SimCLRv2
    (arXiv:2006.10029, official `sk_conv2d`).
    """

    def __init__(self, features: int, stride: int, ratio: float, *, dtype, rngs):
        width = max(int(features * ratio), SK_MIN_WIDTH)
        self.streams = ConvNorm(features, 2 * features, 3, stride, dtype=dtype, rngs=rngs)
        self.squeeze = ConvNorm(features, width, 1, dtype=dtype, rngs=rngs)
        self.mix = conv(width, 2 * features, 1, 1, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array, *, train: bool) -> Array:
        x = jax.nn.relu(self.streams(x, train=train))
        x = jnp.reshape(x, (*x.shape[:-1], 2, -1))
        pooled = jnp.mean(jnp.sum(x, -2), (1, 2), keepdims=True)
        gate = self.mix(jax.nn.relu(self.squeeze(pooled, train=train)))
        gate = jnp.reshape(gate, (*gate.shape[:-1], 2, -1))
        gate = jax.nn.softmax(at_least_float32(gate), axis=-2).astype(x.dtype)
        return jnp.sum(x * gate, -2)


class Neck(nnx.Module):
    """Linear layer without bias, batch norm and ReLU on vectors, float32 at least."""

    def __init__(self, features_in: int, features: int, *, dtype, rngs):
        self.linear = nnx.Linear(
            features_in,
            features,
            use_bias=False,
            kernel_init=normal(0.01),
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = BatchNorm(features)

    def __call__(self, x: Array, *, train: bool) -> Array:
        return jax.nn.relu(self.norm(at_least_float32(self.linear(x)), train=train))


class ResidualBlock(nnx.Module):
    """A residual block: 3x3-3x3 ("basic") or 1x1-3x3-1x1 with 4 times as wide an output
    ("bottleneck").
    """

    def __init__(
        self,
        channels: int,
        filters: int,
        stride: int,
        *,
        kind: Kind,
        inner_width: int,
        zero_init_residual: bool,
        stride_in_1x1: bool,
        sk_ratio: float,
        dtype: DType,
        rngs: nnx.Rngs,
    ):
        layer = partial(ConvNorm, dtype=dtype, rngs=rngs)
        layers: list[nnx.Module]
        if kind == "basic":
            out = filters
            layers = [
                layer(channels, filters, 3, stride),
                layer(filters, out, 3, zero_scale=zero_init_residual),
            ]
        else:
            inner, out = filters * inner_width, 4 * filters
            first, second = (stride, 1) if stride_in_1x1 else (1, stride)
            middle: nnx.Module
            if sk_ratio:
                middle = SelectiveKernel(inner, second, sk_ratio, dtype=dtype, rngs=rngs)
            else:
                middle = layer(inner, inner, 3, second)
            layers = [
                layer(channels, inner, 1, first),
                middle,
                layer(inner, out, 1, zero_scale=zero_init_residual),
            ]
        self.layers = nnx.List(layers)
        self.pool_stride = stride if sk_ratio else None
        projects = stride != 1 or channels != out
        self.shortcut = layer(channels, out, 1, 1 if sk_ratio else stride) if projects else None

    def __call__(self, x: Array, branch_factor: Array | None = None, *, train: bool) -> Array:
        """`branch_factor` (B,): factor of the branch."""
        shortcut = x
        if self.shortcut is not None:
            if self.pool_stride is not None:
                shortcut = _average_pool(x, self.pool_stride)
            shortcut = self.shortcut(shortcut, train=train)
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x, train=train))
        return jax.nn.relu(drop(self.layers[-1](x, train=train), branch_factor) + shortcut)


class ResNet(nnx.Module):
    """Stem and stages of residual blocks; `Config` has the options, `__call__` the outputs."""

    def __init__(self, config: Config, plan: Plan, channels: int, rngs: nnx.Rngs):
        stem, sk_ratio, dtype = config.stem, config.sk_ratio, compute_dtype(config.dtype)
        stem_filters = plan.stem_filters
        layer = partial(ConvNorm, dtype=dtype, rngs=rngs)
        self.depth, self.drop_path = sum(plan.stages), config.drop_path
        self.pool = stem == "imagenet"
        # SimCLRv2's TensorFlow pads even sides at their end only.
        self.pool_padding = "SAME" if sk_ratio else ((1, 1), (1, 1))
        self.num_stages = len(plan.stages)
        if stem == "imagenet" and sk_ratio:
            half = stem_filters // 2
            convs = [
                layer(channels, half, 3, 2),
                layer(half, half, 3),
                layer(half, stem_filters, 3),
            ]
        else:
            kernel, stride = {"imagenet": (7, 2), "cifar": (3, 1), "small": (3, 2)}[stem]
            convs = [layer(channels, stem_filters, kernel, stride)]
        self.stem = nnx.List(convs)
        features = stem_filters
        for s, (count, width) in enumerate(zip(plan.stages, plan.filters, strict=True)):
            blocks = []
            for b in range(count):
                stride = 2 if s > 0 and b == 0 else 1
                blocks.append(
                    ResidualBlock(
                        features,
                        width,
                        stride,
                        kind=plan.kind,
                        inner_width=plan.inner_width,
                        zero_init_residual=config.zero_init_residual,
                        stride_in_1x1=config.stride_in_1x1,
                        sk_ratio=sk_ratio,
                        dtype=dtype,
                        rngs=rngs,
                    )
                )
                features = width if plan.kind == "basic" else 4 * width
            setattr(self, f"stage{s + 1}", nnx.List(blocks))
        widths = (features, *config.neck)
        necks = [Neck(a, b, dtype=dtype, rngs=rngs) for a, b in pairwise(widths)]
        self.neck = nnx.List(necks) if necks else None

    def __call__(
        self,
        images: Array,
        keys: Array | None = None,
        *,
        train: bool,
        stages: bool = False,
        units: bool = False,
    ) -> Features:
        """Map images (B, H, W, C) to the last map (B, h, w, c), after its ReLU, and its mean, or
        what the neck makes of that; with `stages` also to the map of every stage, "stage1", .., or
        with `units` to that of every residual block of the last stage, "unit1", ..

        `keys` (B,) are for `drop_path` in training.
        """
        branch_factor = factors(keys, self.drop_path if train else 0.0, self.depth)
        each = iter([None] * self.depth if branch_factor is None else branch_factor[:, 0])
        x = images
        for layer in self.stem:
            x = jax.nn.relu(layer(x, train=train))
        if self.pool:
            x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=self.pool_padding)
        named = []
        for s in range(1, self.num_stages + 1):
            outputs = []
            for block in getattr(self, f"stage{s}"):
                x = block(x, next(each), train=train)
                outputs.append(x)
            named.append(Stage(name=f"stage{s}", map=x))
        if units:
            named = [Stage(name=f"unit{i}", map=map_) for i, map_ in enumerate(outputs, 1)]
        pooled = jnp.mean(at_least_float32(x), (1, 2))
        for neck in self.neck or ():
            pooled = neck(pooled, train=train)
        return Features(pooled=pooled, map=x, stages=tuple(named) if stages or units else ())


def resnet_custom(
    stages: Sequence[int],
    filters: Sequence[int],
    *,
    block: Kind = "basic",
    stem_filters: int = 64,
    channels: int = 3,
    inner_width: int = 1,
    name: str = "resnet",
    **options: Any,
) -> Net:
    """Build a residual network with any stages; for sizes see `Plan`, for `options` see `Config`.

    Raises:
      UserError: an unknown block or stem, another number of widths than of stages, selective
        kernels or `stride_in_1x1` in basic blocks.
    """
    config = Config(**options)
    plan = Plan(block, tuple(stages), tuple(filters), stem_filters, inner_width)
    _check(plan, config)
    return functional(
        lambda rngs: ResNet(config, plan, channels, rngs),
        name,
        draws=config.draws,
        remat=config.remat_policy,
    )


def _average_pool(x: Array, stride: int) -> Array:
    """Average 2x2 as in SimCLRv2's shortcuts: stride 1 keeps the size, 2 pads odd sides by a 0."""
    if stride == 1:
        return nnx.avg_pool(x, (2, 2), strides=(1, 1), padding="SAME", count_include_pad=False)
    padding = tuple((0, size % 2) for size in x.shape[1:3])
    return nnx.avg_pool(x, (2, 2), strides=(stride, stride), padding=padding)


make = Config.make
