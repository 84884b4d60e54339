"""ConvNeXt (Liu et al. 2022, arXiv:2201.03545) and ConvNeXt V2 (Woo et al. 2023, arXiv:2301.00808):
convolutional networks built from the parts of a vision transformer.
"""

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import nnx

from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.ranges import BelowOne, Count, Positive
from ssl_jax.core.tree import Array
from ssl_jax.nets.backbone import Backbone, scaled_width
from ssl_jax.nets.blocks import linear
from ssl_jax.nets.drop_path import check_rate, drop, factors
from ssl_jax.nets.features import Features, Stage
from ssl_jax.nets.layers import LayerNorm, at_least_float32, compute_dtype, normal

SIZES: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = {  # depths and widths of the stages
    "atto": ((2, 2, 6, 2), (40, 80, 160, 320)),
    "femto": ((2, 2, 6, 2), (48, 96, 192, 384)),
    "pico": ((2, 2, 6, 2), (64, 128, 256, 512)),
    "nano": ((2, 2, 8, 2), (80, 160, 320, 640)),
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "small": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
    "large": ((3, 3, 27, 3), (192, 384, 768, 1536)),
    "xlarge": ((3, 3, 27, 3), (256, 512, 1024, 2048)),
    "huge": ((3, 3, 27, 3), (352, 704, 1408, 2816)),
}
LAYER_SCALE = 1e-6
GROUP = 3  # blocks that share a layer-wise learning rate, as in the authors' optim_factory.py


@dataclass(frozen=True)
class Config(Backbone):
    """A ConvNeXt. Outputs: `ConvNeXt.__call__`; input besides the images: `stages`.

    Attributes:
      size: a published size, "atto" to "huge"; or None, which requires depths and dims.
      depths: blocks of each stage; every stage but the first halves the resolution.
      dims: width of each stage.
      patch: side and stride of the first convolution in pixels; less than 4 suits small images.
      grn: global response norm in every block and no LayerScale: ConvNeXt V2.
      layer_scale: initial value of the blocks' LayerScale, which only ConvNeXt V1 has.
      drop_path: rate of stochastic depth, at which the last block's branch is dropped for a
        training example; it falls to 0 in the first block. The method must draw it.

    Raises:
      UserError: an unknown size, another number of depths than of dims, a layer_scale with grn.
    """

    narrow: ClassVar[Mapping[str, Any]] = {"size": None, "depths": (2, 1), "dims": (8, 16)}
    layout: ClassVar[str] = "convnext"

    size: str | None = "tiny"
    _: KW_ONLY
    depths: tuple[Count, ...] | None = None
    dims: tuple[Count, ...] | None = None
    patch: Count = 4
    grn: bool = False
    layer_scale: Positive = LAYER_SCALE
    drop_path: BelowOne = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None and self.size not in SIZES:
            raise UserError(f"no ConvNeXt of size {self.size!r}; {suggest(self.size, SIZES)}")
        if self.size is None and (self.depths is None or self.dims is None):
            raise UserError("a ConvNeXt with size=None needs depths and dims")
        depths, dims = self.sizes
        if len(depths) != len(dims) or not depths:
            raise UserError(
                f"backbone.depths: {depths} with dims {dims}; give a depth and a width per stage"
            )
        if self.grn and self.layer_scale != LAYER_SCALE:
            raise UserError(
                f"backbone.layer_scale: {self.layer_scale} has no effect with grn, as ConvNeXt V2 "
                "has no LayerScale; leave it out"
            )
        check_rate(self.drop_path, sum(depths))

    @property
    def sizes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Depths and widths: the own ones, else those of the published size."""
        depths, dims = SIZES.get(self.size or "", ((), ()))
        return self.depths or depths, self.dims or dims

    @property
    def title(self) -> str:
        version = "v2" if self.grn else ""
        return f"convnext{version}_{self.size or 'x'.join(map(str, self.sizes[1]))}"

    @property
    def groups(self) -> list[int]:
        """Number of layers, groups of `GROUP` blocks, in each stage."""
        return [math.ceil(depth / GROUP) for depth in self.sizes[0]]

    @property
    def num_layers(self) -> int:
        return sum(self.groups)

    def layer_ids(self, path: str) -> int:
        module, _, rest = path.partition("/")
        if not module.startswith("stage"):
            return 0 if module == "stem" else self.num_layers + 1
        first = 1 + sum(self.groups[: int(module.removeprefix("stage")) - 1])
        part, *number = rest.split("/")[:2]
        return first + (int(number[0]) // GROUP if part == "blocks" else 0)

    @property
    def least_side(self) -> int:
        """Side of the smallest image of which the last stage has a place."""
        return self.patch * 2 ** (len(self.sizes[0]) - 1)

    def side(self, near: int) -> int:
        return max(near, self.least_side)

    def explicit(self) -> Self:
        depths, dims = self.sizes
        return replace(self, depths=depths, dims=dims)

    def scaled(self, factor: float) -> Self:
        if factor == 1:
            return self
        return replace(self, dims=tuple(scaled_width(dim, factor) for dim in self.sizes[1]))

    def module(self, channels: int, rngs: nnx.Rngs) -> "ConvNeXt":
        return ConvNeXt(self, channels, rngs)


def _conv(channels: int, dim: int, kernel: int, **options: Any) -> nnx.Conv:
    """Create a convolution with N(0, 0.02) weights and zero bias."""
    return nnx.Conv(channels, dim, (kernel, kernel), kernel_init=normal(0.02), **options)


class PatchStem(nnx.Module):
    """Square cells of the image to single places, then a norm."""

    def __init__(self, channels: int, dim: int, patch: int, **options: Any):
        self.conv = _conv(channels, dim, patch, strides=patch, padding="VALID", **options)
        self.norm = LayerNorm(dim)

    def __call__(self, x: Array) -> Array:
        return self.norm(self.conv(x))


class Halving(nnx.Module):
    """A norm, then 2x2 cells of the map to single places."""

    def __init__(self, channels: int, dim: int, **options: Any):
        self.norm = LayerNorm(channels)
        self.conv = _conv(channels, dim, 2, strides=2, padding="VALID", **options)

    def __call__(self, x: Array) -> Array:
        return self.conv(self.norm(x))


class GlobalResponseNorm(nnx.Module):
    """Channels compared with each other by their norm over the map (equations 1 to 3 of V2):
    x + scale * x * n + bias with n the channel's norm over the mean of all. float32 at least.
    """

    def __init__(self, dim: int, *, eps: float = 1e-6):
        self.eps = eps
        self.scale = nnx.Param(jnp.zeros((dim,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((dim,), jnp.float32))

    def __call__(self, x: Array) -> Array:
        wide = at_least_float32(x)
        squares = jnp.sum(jnp.square(wide), (1, 2), keepdims=True)
        # The square root has no gradient at 0, where a channel is 0 all over the map.
        norms = jnp.sqrt(jnp.where(squares > 0, squares, 1.0)) * (squares > 0)
        norms = norms / (jnp.mean(norms, -1, keepdims=True) + self.eps)
        return (wide + self.scale[...] * (wide * norms) + self.bias[...]).astype(x.dtype)


class ConvNeXtBlock(nnx.Module):
    """A depthwise 7x7 convolution, a norm and a perceptron of 4 times the width, beside a
    shortcut.
    """

    def __init__(self, dim: int, grn: bool, layer_scale: float, **options: Any):
        self.conv = _conv(dim, dim, 7, padding=3, feature_group_count=dim, **options)
        self.norm = LayerNorm(dim)
        self.fc1 = linear(dim, 4 * dim, scheme="normal", **options)
        self.grn = GlobalResponseNorm(4 * dim) if grn else None
        self.fc2 = linear(4 * dim, dim, scheme="normal", **options)
        gamma = None if grn else nnx.Param(jnp.full((dim,), layer_scale, jnp.float32))
        self.gamma = gamma

    def __call__(self, x: Array, branch_factor: Array | None = None) -> Array:
        """`branch_factor` (B,): factor of the branch."""
        branch = jax.nn.gelu(self.fc1(self.norm(self.conv(x))), approximate=False)
        if self.grn is not None:
            branch = self.grn(branch)
        branch = self.fc2(branch)
        if self.gamma is not None:
            branch = branch * self.gamma[...].astype(branch.dtype)
        return x + drop(branch, branch_factor)


class ConvNeXt(nnx.Module):
    """See `Config` for the options and `__call__` for the outputs."""

    def __init__(self, config: Config, channels: int, rngs: nnx.Rngs):
        options: dict[str, Any] = {"dtype": compute_dtype(config.dtype), "rngs": rngs}
        depths, dims = config.sizes
        self.depth, self.drop_path = sum(depths), config.drop_path
        self.title, self.least_side, self.num_stages = config.title, config.least_side, len(depths)
        self.stem = PatchStem(channels, dims[0], config.patch, **options)
        for s, (depth, dim) in enumerate(zip(depths, dims, strict=True)):
            blocks = [
                ConvNeXtBlock(dim, config.grn, config.layer_scale, **options) for _ in range(depth)
            ]
            stage = {"halving": Halving(dims[s - 1], dim, **options)} if s else {}
            setattr(self, f"stage{s + 1}", nnx.Dict(blocks=nnx.List(blocks), **stage))
        self.norm = LayerNorm(dims[-1])

    def __call__(
        self, images: Array, keys: Array | None = None, *, train: bool, stages: bool = False
    ) -> Features:
        """Map images (B, H, W, C) to the last map (B, h, w, D); `pooled` is the norm of its mean.
        With `stages` also return the map of every stage, "stage1", ..

        `keys` (B,) are for `drop_path` in training.

        Raises:
          UserError: images too small for the last stage.
        """
        if min(images.shape[1:3]) < self.least_side:
            raise UserError(
                f"{self.title}: images of {images.shape[1]} x {images.shape[2]} px; expected at "
                f"least {self.least_side} px, or a smaller backbone.patch"
            )
        branch_factor = factors(keys, self.drop_path if train else 0.0, self.depth)
        each = iter([None] * self.depth if branch_factor is None else branch_factor[:, 0])
        x, named = self.stem(images), []
        for s in range(1, self.num_stages + 1):
            stage = getattr(self, f"stage{s}")
            x = stage.halving(x) if s > 1 else x
            for block in stage.blocks:
                x = block(x, next(each))
            named.append(Stage(name=f"stage{s}", map=x))
        pooled = self.norm(jnp.mean(at_least_float32(x), (1, 2)))
        return Features(pooled=pooled, map=x, stages=tuple(named) if stages else ())


make = Config.make
