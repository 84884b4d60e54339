"""Swin transformers (Liu et al. 2021, arXiv:2103.14030): attention in windows that shift."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar, Self

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.ranges import Count
from ssl_jax.core.tree import Array
from ssl_jax.nets.backbone import Backbone, scaled_width
from ssl_jax.nets.backbones.vit import patch_grid
from ssl_jax.nets.blocks import Block, Remat, check_options, hide, linear, run_stack, token
from ssl_jax.nets.features import Features, Stage
from ssl_jax.nets.layers import DType, LayerNorm, at_least_float32, compute_dtype, torch_default
from ssl_jax.nets.positions import RelativePositions

SIZES = {  # dim, blocks and heads of each stage
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}
EPS = 1e-5  # of all norms


class Straight(nnx.Module):
    """A transformer block in the windows of a map (B, h, w, D)."""

    def __init__(self, dim: int, heads: int, window: int, *, dtype: DType, rngs: nnx.Rngs):
        self.window = window
        self.straight, self.straight_bias = _block(dim, heads, window, dtype, rngs)

    def __call__(self, x: Array, bias: Array | None = None) -> Array:
        del bias  # `run_stack` passes one to a ViT's blocks
        window = min(self.window, *x.shape[1:3])
        return in_windows(x, window, self.straight, self.straight_bias((window, window)))


class Pair(Straight):
    """Two such blocks; the windows of the second are shifted."""

    def __init__(self, dim: int, heads: int, window: int, *, dtype: DType, rngs: nnx.Rngs):
        super().__init__(dim, heads, window, dtype=dtype, rngs=rngs)
        self.shifted, self.shifted_bias = _block(dim, heads, window, dtype, rngs)

    def __call__(self, x: Array, bias: Array | None = None) -> Array:
        x = super().__call__(x)
        _, height, width, _ = x.shape
        window = min(self.window, height, width)
        # A map of one window has nowhere to shift to.
        shift = 0 if window == min(height, width) else window // 2
        bias = self.shifted_bias((window, window))
        if not shift:
            return in_windows(x, window, self.shifted, bias)
        x = jnp.roll(x, (-shift, -shift), axis=(1, 2))
        apart = shifted_mask(height, width, window, shift)
        x = in_windows(x, window, self.shifted, bias + apart[:, None])
        return jnp.roll(x, (shift, shift), axis=(1, 2))


def _block(
    dim: int, heads: int, window: int, dtype: DType, rngs: nnx.Rngs
) -> tuple[Block, RelativePositions]:
    block = Block(dim, heads, norm_eps=EPS, scheme="normal", dtype=dtype, rngs=rngs)
    return block, RelativePositions((window, window), heads, cls_token=False)


def windows(
    kind: type[Straight],
    count: int,
    dim: int,
    heads: int,
    window: int,
    dtype: DType,
    rngs: nnx.Rngs,
) -> Straight:
    """Build `count` of them as one module whose parameters have a leading axis of that size."""
    make = nnx.vmap(lambda keys: kind(dim, heads, window, dtype=dtype, rngs=keys))
    return make(rngs.split(count))


def in_windows(x: Array, window: int, block: Callable[[Array, Array], Array], bias: Array) -> Array:
    """Apply a block to each window of (B, h, w, D); `bias` (1 or windows, heads, T, T), that of
    sequence b is b % windows.

    Everything but the attention acts on single tokens, so the whole block may see windows.
    """
    batch, height, width, dim = x.shape
    rows, columns = height // window, width // window
    x = jnp.reshape(x, (batch, rows, window, columns, window, dim)).swapaxes(2, 3)
    shape = x.shape
    x = block(jnp.reshape(x, (batch * rows * columns, window * window, dim)), bias)
    return jnp.reshape(jnp.reshape(x, shape).swapaxes(2, 3), (batch, height, width, dim))


@functools.cache
def shifted_mask(height: int, width: int, window: int, shift: int) -> np.ndarray:
    """Mask (windows, T, T), float32: -inf between tokens that only the roll made neighbours, else
    0.
    """

    def regions(side: int) -> np.ndarray:
        at = np.arange(side)
        return (at >= side - window).astype(int) + (at >= side - shift)

    region = 3 * regions(height)[:, None] + regions(width)[None]
    rows, columns = height // window, width // window
    region = region.reshape(rows, window, columns, window).swapaxes(1, 2)
    region = region.reshape(rows * columns, -1)
    return np.where(region[:, :, None] == region[:, None], 0, -np.inf).astype(np.float32)


class Merge(nnx.Module):
    """Merges four neighbouring patches into one of twice the width."""

    def __init__(self, dim: int, *, dtype: DType, rngs: nnx.Rngs):
        self.norm = LayerNorm(4 * dim, eps=EPS)
        self.reduce = linear(
            4 * dim, 2 * dim, use_bias=False, scheme="normal", dtype=dtype, rngs=rngs
        )

    def __call__(self, x: Array) -> Array:
        corners = [x[:, down::2, right::2] for right in (0, 1) for down in (0, 1)]
        return self.reduce(self.norm(jnp.concatenate(corners, -1)))


@dataclass(frozen=True)
class Pyramid(Backbone):
    """Config of a transformer whose stages double the width and halve the map, as those of Swin.

    Attributes:
      size: "tiny", "small", "base", "large", or None, which requires dim, depths and heads.
      window: side of a window in patches.
      image_size: side of the images that the network is made for.
      patch: side of a patch in pixels.
      dim: width of the first stage.
      depths, heads: blocks and attention heads of each stage.
      family: name for messages.
    """

    family: ClassVar[str] = "Swin"

    size: str | None = "tiny"
    window: Count = 7
    image_size: Count = 224
    _: KW_ONLY
    patch: Count = 4
    dim: Count | None = None
    depths: tuple[Count, ...] | None = None
    heads: tuple[Count, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None and self.size not in SIZES:
            raise UserError(f"no {self.family} of size {self.size!r}; {suggest(self.size, SIZES)}")
        if None in self.sizes:
            raise UserError(f"a {self.family} with size=None needs dim, depths and heads")

    @property
    def sizes(self) -> tuple[Any, Any, Any]:
        """Width, depths and heads: the own ones, else those of the published size."""
        published = (None, None, None) if self.size is None else SIZES[self.size]
        own = (self.dim, self.depths, self.heads)
        dim, depths, heads = (p if o is None else o for o, p in zip(own, published, strict=True))
        return dim, depths, heads

    @property
    def num_layers(self) -> int:
        return sum(self.sizes[1])

    def side(self, near: int) -> int:
        return self.image_size  # the windows do not divide every grid

    def explicit(self) -> Self:
        dim, depths, heads = self.sizes
        return replace(self, dim=dim, depths=depths, heads=heads)

    def scaled(self, factor: float) -> Self:
        dim, _, heads = self.sizes
        if factor == 1:
            return self
        each = tuple(scaled_width(count, factor) for count in heads)
        return replace(self, dim=scaled_width(dim, factor), heads=each)

    def patch_embed(self, channels: int, rngs: nnx.Rngs) -> nnx.Conv:
        """Build the layer that maps each patch to a vector."""
        init = torch_default(self.patch**2 * channels)
        return nnx.Conv(
            channels,
            self.sizes[0],
            (self.patch, self.patch),
            strides=self.patch,
            padding="VALID",
            kernel_init=init,
            bias_init=init,
            dtype=compute_dtype(self.dtype),
            rngs=rngs,
        )


@dataclass(frozen=True)
class Config(Pyramid):
    """A Swin transformer. Outputs: `Swin.__call__`; inputs besides the images: `mask`, `stages`.

    Attributes:
      size: "tiny", "small", "base", "large", or None, which requires dim, depths and heads.
      window: side of a window in patches, at most that of the first stage's map; a later stage with
        a smaller map uses the map's side.
      image_size: side of the images that the network is made for.
      patch: side of a patch in pixels.
      dim: width of the first stage; each later one doubles it and halves the map.
      depths: blocks of each stage; every second one has shifted windows.
      heads: attention heads of each stage.
      mask_token: whether there is a token that replaces hidden patches.
      remat: what the backward pass recomputes, two blocks at a time: see `vit.Config`.

    Raises:
      UserError: an unknown size or option, depths and heads of other numbers of stages, heads that
        do not divide the width, windows that do not tile the maps.
    """

    narrow: ClassVar[Mapping[str, Any]] = {
        "size": None,
        "dim": 8,
        "depths": (2, 2),
        "heads": (2, 2),
        "window": 4,
    }
    layout: ClassVar[str] = "swin"

    _: KW_ONLY
    mask_token: bool = False
    remat: Remat = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        dim, depths, heads = self.sizes
        if len(depths) != len(heads):
            raise UserError(
                f"depths {tuple(depths)} with heads {tuple(heads)}: expected a depth and a number "
                "of heads for each stage"
            )
        for s, count in enumerate(heads):
            check_options(dim * 2**s, count, self.remat)
        for s, side in enumerate(self.sides):
            tiled = 1 <= self.window <= self.sides[0] and side % min(self.window, side) == 0
            if side * 2**s * self.patch != self.image_size or not tiled:
                raise UserError(
                    f"windows of {self.window} patches do not tile the {side} x {side} map of "
                    f"stage {s + 1} of an image of {self.image_size} px; change backbone.window or "
                    "the image"
                )

    @property
    def sides(self) -> list[int]:
        """Sides of the maps of all stages, in patches."""
        side, _ = patch_grid((self.image_size, self.image_size), self.patch)
        return [side // 2**s for s in range(len(self.sizes[1]))]

    @property
    def title(self) -> str:
        return f"swin_{self.size or self.dim}"

    def layer_ids(self, path: str) -> int | Sequence[int]:
        _, depths, _ = self.sizes
        module, _, rest = path.partition("/")
        if module in ("patch_embed", "patch_norm", "mask_token"):
            return 0
        kind, number = module[:5], module[5:]
        if kind == "merge":  # with the last block before it (SimMIM)
            return sum(depths[: int(number)])
        if kind != "stage":
            return self.num_layers + 1
        before, depth = sum(depths[: int(number) - 1]), depths[int(number) - 1]
        if not rest.startswith("blocks"):
            return (before + depth,)
        first = 1 if rest.startswith("blocks/straight") else 2  # of each pair of blocks
        return range(before + first, before + depth // 2 * 2 + 1, 2)

    def module(self, channels: int, rngs: nnx.Rngs) -> "Swin":
        return Swin(self, channels, rngs)


class Swin(nnx.Module):
    """See `Config` for the options and `__call__` for the outputs."""

    def __init__(self, config: Config, channels: int, rngs: nnx.Rngs):
        dim, depths, heads = config.sizes
        patch, dtype = config.patch, compute_dtype(config.dtype)
        sides = [min(config.window, side) for side in config.sides]
        self.patch, self.remat, self.stages = patch, config.remat, len(depths)
        self.patch_embed = config.patch_embed(channels, rngs)
        self.patch_norm = LayerNorm(dim, eps=EPS)
        self.mask_token = token(0.02, 1, dim, rngs=rngs) if config.mask_token else None
        for s, (depth, count, window) in enumerate(zip(depths, heads, sides, strict=True)):
            width = dim * 2**s
            stage: nnx.Dict[Straight] = nnx.Dict()
            options = (width, count, window, dtype, rngs)
            if depth > 1:
                stage["blocks"] = windows(Pair, depth // 2, *options)
            if depth % 2:
                stage[f"block{depth - 1}"] = windows(Straight, 1, *options)
            setattr(self, f"stage{s + 1}", stage)
            if s + 1 < self.stages:
                setattr(self, f"merge{s + 1}", Merge(width, dtype=dtype, rngs=rngs))
        self.norm = LayerNorm(dim * 2 ** (self.stages - 1), eps=EPS)

    def __call__(
        self, images: Array, mask: Array | None = None, *, train: bool, stages: bool = False
    ) -> Features:
        """Map images (B, H, W, C) to the features of the N patches of the last stage.

        Args:
          images: their sides must fit the windows; for sides other than the network's, positions
            are resized where a window is cut down to the map.
          mask: (B, r, c), 1 or True where the mask token replaces the patches; the grid of patches
            is a multiple of r x c.
          train: has no effect.
          stages: also return the map after every stage.

        Returns:
          `tokens` (B, N, D) and `map` after the final norm; `pooled` is their mean. The stages are
          "stage1", ..; the last one is after the final norm.

        Raises:
          UserError: an image that the windows do not tile, a mask without a mask token.
        """
        del train
        _, height, width, _ = images.shape
        grid = patch_grid((height, width), self.patch)
        x = self.patch_norm(self.patch_embed(images))
        if mask is not None:
            flat = jnp.reshape(x, (x.shape[0], -1, x.shape[-1]))
            x = jnp.reshape(hide(flat, mask, grid, self.mask_token), x.shape)
        each = []
        for s in range(1, self.stages + 1):
            stage = getattr(self, f"stage{s}")
            for name in sorted(stage, reverse=True):  # the pairs, then the last one of an odd depth
                x, _ = run_stack(stage[name], x, self.remat)
            each.append(x if s < self.stages else self.norm(x))
            if s < self.stages:
                x = getattr(self, f"merge{s}")(x)
        last = _outputs(each[-1])
        pooled = jnp.mean(at_least_float32(last["tokens"]), axis=1)
        named = (Stage(name=f"stage{s + 1}", **_outputs(x)) for s, x in enumerate(each))
        return Features(pooled=pooled, stages=tuple(named) if stages else (), **last)


def _outputs(x: Array) -> dict[str, Array]:
    """Name a map (B, h, w, D) and its tokens (B, N, D)."""
    return {"map": x, "tokens": jnp.reshape(x, (x.shape[0], -1, x.shape[-1]))}


make = Config.make
