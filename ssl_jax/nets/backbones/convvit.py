"""ConvViT, the hybrid network of ConvMAE (Gao et al. 2022, arXiv:2205.03892): two stages of masked
convolutions, then a transformer.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
from flax import nnx

from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.ranges import BelowOne, Count, Positive
from ssl_jax.core.tree import Array
from ssl_jax.nets.backbone import Backbone, scaled_width
from ssl_jax.nets.backbones.vit import patch_grid
from ssl_jax.nets.blocks import Remat, check_options, linear, run_stack, stack, token
from ssl_jax.nets.drop_path import check_rate, drop, factors
from ssl_jax.nets.features import Features, Stage
from ssl_jax.nets.layers import (
    DType,
    LayerNorm,
    at_least_float32,
    compute_dtype,
    torch_default,
    xavier_uniform,
)
from ssl_jax.nets.positions import Grid, resize_grid, sincos

Triple = tuple[Count, Count, Count]
SIZES: dict[str, tuple[tuple[int, int, int], tuple[int, int, int], int]] = {  # dims, depths, heads
    "small": ((128, 256, 384), (2, 2, 11), 6),
    "base": ((256, 384, 768), (2, 2, 11), 12),
}
EPS = 1e-5  # of the norms of the convolutional part


@dataclass(frozen=True)
class Config(Backbone):
    """A ConvViT. Outputs: `ConvViT.__call__`; inputs besides the images: `keep`, `stages`.

    Attributes:
      size: "small", "base", or None, which requires dims, depths and heads.
      image_size: side of the images that the position table is made for.
      dims, depths: widths and blocks of the three stages; override those of the size.
      heads: attention heads of the third stage.
      strides: factors by which the embeddings before the stages reduce the image; a patch has the
        side of their product.
      mlp_ratio: width of a perceptron over that of its stage.
      position: "sincos", a fixed table, or "learned" (ConvMAE's fine-tuning).
      fusion: add the outputs of the first two stages to the tokens before the last norm
        (pre-training; the release's network for fine-tuning lacks it).
      norm_after_pool: apply the final norm to "pooled" and not to the tokens.
      drop_path: rate of stochastic depth in the last block; it falls to 0 in the first. The method
        must draw it.
      remat: what the backward pass recomputes of the transformer; see `vit`.

    Raises:
      UserError: an unknown size or option, heads that do not divide the width, strides that do not
        divide the image.
    """

    narrow: ClassVar[Mapping[str, Any]] = {
        "size": None,
        "dims": (8, 8, 16),
        "depths": (1, 1, 2),
        "heads": 2,
    }

    size: str | None = "base"
    image_size: Count = 224
    _: KW_ONLY
    dims: Triple | None = None
    depths: Triple | None = None
    heads: Count | None = None
    strides: Triple = (4, 2, 2)
    mlp_ratio: Positive = 4.0
    position: Literal["sincos", "learned"] = "sincos"
    fusion: bool = True
    norm_after_pool: bool = False
    drop_path: BelowOne = 0.0
    remat: Remat = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None and self.size not in SIZES:
            raise UserError(f"no ConvViT of size {self.size!r}; {suggest(self.size, SIZES)}")
        dims, depths, heads = self.sizes
        if None in (dims, depths, heads):
            raise UserError("a ConvViT with size=None needs dims, depths and heads")
        check_options(dims[-1], heads, self.remat)
        check_rate(self.drop_path, sum(depths))
        if self.position not in ("sincos", "learned"):
            known = ("sincos", "learned")
            raise UserError(f"unknown position {self.position!r}; {suggest(self.position, known)}")
        grid = self.grid  # raises unless the strides divide the image
        if self.position == "sincos":
            sincos(dims[-1], grid)  # raises for an invalid width

    @property
    def sizes(self) -> tuple[Any, Any, Any]:
        """Widths, depths and heads: the own ones, else those of the published size."""
        published = (None, None, None) if self.size is None else SIZES[self.size]
        own = (self.dims, self.depths, self.heads)
        dims, depths, heads = (p if o is None else o for o, p in zip(own, published, strict=True))
        return dims, depths, heads

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return math.prod(self.strides)

    @property
    def grid(self) -> Grid:
        """Rows and columns of patches of the position table."""
        return patch_grid((self.image_size, self.image_size), self.patch)

    @property
    def title(self) -> str:
        return f"convvit_{self.size or self.sizes[0][-1]}"

    @property
    def num_layers(self) -> int:
        return int(self.sizes[1][-1])

    def layer_ids(self, path: str) -> int | Sequence[int]:
        module = path.split("/")[0]
        if module == "blocks":
            return range(1, self.num_layers + 1)
        return self.num_layers + 1 if module in ("norm", "fuse1", "fuse2") else 0

    def side(self, near: int) -> int:
        return max(round(near / self.patch), 1) * self.patch

    def explicit(self) -> Self:
        dims, depths, heads = self.sizes
        return replace(self, dims=dims, depths=depths, heads=heads)

    def scaled(self, factor: float) -> Self:
        dims, _, heads = self.sizes
        if factor == 1:
            return self
        first, second, third = (scaled_width(dim, factor) for dim in dims)
        return replace(self, dims=(first, second, third), heads=scaled_width(heads, factor))

    def module(self, channels: int, rngs: nnx.Rngs) -> "ConvViT":
        return ConvViT(self, channels, rngs)


class Embedding(nnx.Module):
    """Reduces cells of the map to single places: a convolution, a norm, GELU."""

    def __init__(
        self, dim: int, features: int, cell: int, *, xavier: bool, dtype: DType, rngs: nnx.Rngs
    ):
        self.conv = _strided(dim, features, cell, xavier=xavier, dtype=dtype, rngs=rngs)
        self.norm = LayerNorm(features, eps=EPS)

    def __call__(self, x: Array) -> Array:
        return jax.nn.gelu(self.norm(self.conv(x)), approximate=False)


class MaskedConvBlock(nnx.Module):
    """A masked depthwise 5x5 convolution between two linear layers, then a perceptron; both beside
    a shortcut.
    """

    def __init__(self, dim: int, hidden: int, *, dtype: DType, rngs: nnx.Rngs):
        def layer(features_in: int, features: int) -> nnx.Linear:
            init = torch_default(features_in)
            return nnx.Linear(
                features_in, features, kernel_init=init, bias_init=init, dtype=dtype, rngs=rngs
            )

        self.norm1, self.norm2 = (LayerNorm(dim, eps=EPS) for _ in range(2))
        self.conv1, self.conv2 = layer(dim, dim), layer(dim, dim)
        self.depthwise = nnx.Conv(
            dim,
            dim,
            (5, 5),
            feature_group_count=dim,
            kernel_init=torch_default(25),
            bias_init=torch_default(25),
            dtype=dtype,
            rngs=rngs,
        )
        self.fc1, self.fc2 = layer(dim, hidden), layer(hidden, dim)

    def __call__(
        self, x: Array, visible: Array | None, branch_factors: Array | None = None
    ) -> Array:
        """(B, h, w, D) -> (B, h, w, D). What is not `visible` (B, h, w, 1) is 0 for the
        convolution, so it has no influence on the rest; `branch_factors` (2, B).
        """
        convolution, perceptron = (None, None) if branch_factors is None else branch_factors
        branch = self.conv1(self.norm1(x))
        if visible is not None:
            branch = branch * visible.astype(branch.dtype)
        x = x + drop(self.conv2(self.depthwise(branch)), convolution)
        branch = self.fc2(jax.nn.gelu(self.fc1(self.norm2(x)), approximate=False))
        return x + drop(branch, perceptron)


class ConvViT(nnx.Module):
    """See `Config` for the options and `__call__` for the outputs."""

    def __init__(self, config: Config, channels: int, rngs: nnx.Rngs):
        dims, depths, heads = config.sizes
        dim, strides, ratio = dims[-1], config.strides, config.mlp_ratio
        options: dict[str, Any] = dict(dtype=compute_dtype(config.dtype), rngs=rngs)
        self.strides, self.depths, self.grid = strides, depths, config.grid
        self.norm_after_pool, self.fusion = config.norm_after_pool, config.fusion
        self.drop_path, self.remat = config.drop_path, config.remat
        for s, before in enumerate((channels, dims[0])):
            embedding = Embedding(before, dims[s], strides[s], xavier=False, **options)
            setattr(self, f"embed{s + 1}", embedding)
        # The release re-initialises the last of the three only (models_convmae.py).
        self.embed3 = Embedding(dims[1], dim, strides[2], xavier=True, **options)
        for s in range(2):
            hidden = round(dims[s] * ratio)
            blocks = [MaskedConvBlock(dims[s], hidden, **options) for _ in range(depths[s])]
            setattr(self, f"stage{s + 1}", nnx.List(blocks))
            cell = math.prod(strides[s + 1 :])
            fuse = _strided(dims[s], dim, cell, **options) if config.fusion else None
            setattr(self, f"fuse{s + 1}", fuse)
        self.embed4 = linear(dim, dim, scheme="xavier", **options)
        learned, count = config.position == "learned", math.prod(config.grid)
        self.pos_embed = token(0.02, count, dim, rngs=rngs) if learned else None
        self.blocks = stack(depths[2], dim, heads, mlp_ratio=ratio, scheme="xavier", **options)
        self.norm = LayerNorm(dim)

    def __call__(
        self,
        images: Array,
        keep: Array | None = None,
        keys: Array | None = None,
        *,
        train: bool,
        stages: bool = False,
    ) -> Features:
        """Map images (B, H, W, C) to features of N patches, or of those in `keep`.

        Args:
          images: a patch must divide their sides; for sides other than the network's, positions
            are resized.
          keep: (B, K) int, the patches to keep, row-major. The first two stages hide the others
            from their convolutions, and only the kept ones enter the transformer.
          keys: (B,) random keys, for `drop_path` in training.
          train: whether branches are dropped.
          stages: also return what the convolutional stages and every block return.

        Returns:
          `tokens` (B, N or K, D); `pooled` is their mean. The stages are "stage1", "stage2",
          "block1", ..; the last one is normed like the tokens. With `keep`, a convolutional stage
          has one token per kept patch, the mean over its places.
        """
        branch_factors = factors(
            keys, self.drop_path if train else 0.0, sum(self.depths), branches=2
        )
        _, height, width, _ = images.shape
        grid = patch_grid((height, width), math.prod(self.strides))
        x, outputs, fused, number = images, [], [], 0
        for s in range(2):
            x = getattr(self, f"embed{s + 1}")(x)
            cell = math.prod(self.strides[s + 1 :])
            visible = None if keep is None else visible_places(keep, grid, cell)
            for block in getattr(self, f"stage{s + 1}"):
                x = block(x, visible, None if branch_factors is None else branch_factors[number])
                number += 1
            if self.fusion:
                fused.append(_kept(_flat(getattr(self, f"fuse{s + 1}")(x)), keep))
            outputs.append(_stage(f"stage{s + 1}", x, keep, cell))
        x = self.embed4(_flat(self.embed3(x)))
        x = _kept(x + jnp.asarray(self._positions(grid), x.dtype), keep)
        rest = None if branch_factors is None else branch_factors[number:]
        x, (each, _) = run_stack(self.blocks, x, self.remat, stages, branch_factors=rest)
        x = sum(fused, x)
        tokens = x if self.norm_after_pool else self.norm(x)
        layout = None if keep is not None else (x.shape[0], *grid, x.shape[-1])
        shaped = lambda x: None if layout is None else jnp.reshape(x, layout)  # noqa: E731
        pooled = at_least_float32(jnp.mean(at_least_float32(tokens), 1))
        blocks = [] if each is None else [*each[:-1], tokens]
        outputs += [
            Stage(name=f"block{i + 1}", tokens=x, map=shaped(x)) for i, x in enumerate(blocks)
        ]
        return Features(
            pooled=self.norm(pooled) if self.norm_after_pool else pooled,
            tokens=tokens,
            map=shaped(tokens),
            stages=tuple(outputs) if stages else (),
        )

    def _positions(self, grid: Grid) -> Array:
        """Return the positions (1, N, D) of a grid of patches."""
        if self.pos_embed is not None:
            table = self.pos_embed[...]
        else:
            table = jnp.asarray(sincos(self.embed4.out_features, self.grid)[None])
        return resize_grid(table, self.grid, grid)


def visible_places(keep: Array, grid: Grid, cell: int) -> Array:
    """Return 1.0 at the places of a map that belong to the patches `keep` (B, K), else 0: (B, h, w,
    1), where a patch of the grid has cell x cell places.
    """
    rows, columns = grid
    visible = jnp.zeros((keep.shape[0], rows * columns), jnp.float32)
    visible = jax.vmap(lambda row, ids: row.at[ids].set(1.0))(visible, keep)
    visible = jnp.reshape(visible, (-1, rows, columns, 1))
    return visible.repeat(cell, axis=1).repeat(cell, axis=2)


def _strided(
    dim: int, features: int, cell: int, *, xavier: bool = False, dtype: DType, rngs: nnx.Rngs
) -> nnx.Conv:
    """Create a convolution of cells that do not overlap, with PyTorch's default initialisation."""
    fan_in = cell * cell * dim
    return nnx.Conv(
        dim,
        features,
        (cell, cell),
        strides=cell,
        padding="VALID",
        kernel_init=xavier_uniform(fan_in, features) if xavier else torch_default(fan_in),
        bias_init=torch_default(fan_in),
        dtype=dtype,
        rngs=rngs,
    )


def _flat(x: Array) -> Array:
    return jnp.reshape(x, (x.shape[0], -1, x.shape[-1]))


def _kept(tokens: Array, keep: Array | None) -> Array:
    return tokens if keep is None else jnp.take_along_axis(tokens, keep[:, :, None], axis=1)


def _stage(name: str, x: Array, keep: Array | None, cell: int) -> Stage:
    """Name the output (B, h, w, D) of a convolutional stage."""
    if keep is None:
        return Stage(name=name, map=x, tokens=_flat(x))
    b, h, w, d = x.shape
    patches = jnp.mean(jnp.reshape(x, (b, h // cell, cell, w // cell, cell, d)), (2, 4))
    return Stage(name=name, tokens=_kept(_flat(patches), keep))


make = Config.make
