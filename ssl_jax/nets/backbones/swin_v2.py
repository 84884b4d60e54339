"""Swin transformers V2 (Liu et al. 2021, arXiv:2111.09883): cosine attention, norms after the
branches, and a position bias computed from log-spaced offsets.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import BelowOne, Count, Positive
from ssl_jax.core.tree import Array
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.nets.attention import repeated
from ssl_jax.nets.backbones.swin import Pyramid, in_windows, shifted_mask
from ssl_jax.nets.backbones.vit import patch_grid
from ssl_jax.nets.blocks import Mlp, check_options, linear
from ssl_jax.nets.drop_path import check_rate, drop, factors
from ssl_jax.nets.features import Features, Stage
from ssl_jax.nets.layers import LayerNorm, at_least_float32, compute_dtype
from ssl_jax.nets.positions import relative_index

LARGEST_SCALE = 100.0  # of the cosines
EPS = 1e-5  # of all norms
APART = -100.0  # added to the logits of tokens that only the roll made neighbours


class CosineAttention(nnx.Module):
    """Multi-head attention by cosine similarity with a trained scale per head; no bias of keys."""

    def __init__(self, dim: int, heads: int, **options: Any):
        self.heads = heads
        self.qkv = linear(dim, 3 * dim, use_bias=False, **options)
        self.q_bias, self.v_bias = (nnx.Param(jnp.zeros((dim,), jnp.float32)) for _ in range(2))
        self.logit_scale = nnx.Param(jnp.full((heads,), np.log(10.0), jnp.float32))
        self.proj = linear(dim, dim, **options)

    def __call__(self, x: Array, bias: Array) -> Array:
        """(B, T, D) -> (B, T, D); `bias` (1 or N, heads, T, T) is added to the logits: sequence b
        has the bias b % N.
        """
        q_bias, v_bias = self.q_bias[...], self.v_bias[...]
        qkv = self.qkv(x)
        qkv = qkv + jnp.concatenate([q_bias, jnp.zeros_like(q_bias), v_bias]).astype(qkv.dtype)
        qkv = jnp.reshape(qkv, (*x.shape[:2], 3, self.heads, -1))
        q, k, v = (at_least_float32(qkv[:, :, i]) for i in range(3))
        q, k = l2_normalize(q, floor="norm"), l2_normalize(k, floor="norm")
        scale = jnp.exp(jnp.minimum(self.logit_scale[...], np.log(LARGEST_SCALE)))
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) * scale[:, None, None]
        logits = logits + repeated(bias, x.shape[0])
        out = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits), v)
        return self.proj(jnp.reshape(out, x.shape).astype(x.dtype))


class SwinV2Block(nnx.Module):
    """Attention in windows of a map (B, h, w, D), then a perceptron; each branch ends in a norm."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, **options: Any):
        self.attn = CosineAttention(dim, heads, **options)
        self.norm1 = LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim, round(dim * mlp_ratio), **options)
        self.norm2 = LayerNorm(dim, eps=EPS)

    def __call__(
        self, x: Array, bias: Array, window: int, shift: int, branch_factors: Array | None
    ) -> Array:
        """`bias` (1, heads, T, T) of a window; `branch_factors` (2, B) of stochastic depth."""
        attention, perceptron = (None, None) if branch_factors is None else branch_factors
        _, height, width, _ = x.shape
        rolled = jnp.roll(x, (-shift, -shift), axis=(1, 2)) if shift else x
        if shift:
            apart = np.maximum(shifted_mask(height, width, window, shift), APART)
            bias = bias + apart[:, None]
        branch = in_windows(rolled, window, self.attn, bias)
        branch = jnp.roll(branch, (shift, shift), axis=(1, 2)) if shift else branch
        x = x + drop(self.norm1(branch), attention)
        return x + drop(self.norm2(self.mlp(x)), perceptron)


class ContinuousPositions(nnx.Module):
    """An attention bias per head, computed by a perceptron from the log-spaced offset between two
    patches (section 3.3), in 0 .. 16.
    """

    def __init__(self, heads: int, hidden: int, **options: Any):
        self.fc1 = linear(2, hidden, **options)
        self.fc2 = linear(hidden, heads, use_bias=False, **options)

    def __call__(self, window: int) -> Array:
        """Return the bias (1, heads, T, T) of a window of T patches."""
        table = self.fc2(
            jax.nn.relu(self.fc1(jnp.asarray(log_offsets(window), self.fc1.kernel[...].dtype)))
        )
        table = 16 * jax.nn.sigmoid(at_least_float32(table))
        return jnp.moveaxis(table[relative_index((window, window))], -1, 0)[None]


@functools.cache
def log_offsets(window: int) -> np.ndarray:
    """Return the offsets (down, right) of all pairs of patches of a window, ((2 w - 1)^2, 2):
    `sign(r) log2(1 + 8 |r| / (w - 1)) / 3` of r rows or columns.
    """
    offsets = np.arange(1 - window, window) / max(window - 1, 1) * 8
    offsets = np.sign(offsets) * np.log2(np.abs(offsets) + 1) / 3
    return np.stack(np.meshgrid(offsets, offsets, indexing="ij"), -1).reshape(-1, 2)


class SwinV2Merge(nnx.Module):
    """Merges four neighbouring patches into one of twice the width; the norm comes last."""

    def __init__(self, dim: int, **options: Any):
        self.reduce = linear(4 * dim, 2 * dim, use_bias=False, **options)
        self.norm = LayerNorm(2 * dim, eps=EPS)

    def __call__(self, x: Array) -> Array:
        corners = [x[:, down::2, right::2] for right in (0, 1) for down in (0, 1)]
        return self.norm(self.reduce(jnp.concatenate(corners, -1)))


@dataclass(frozen=True)
class Config(Pyramid):
    """A Swin transformer V2. Outputs: `SwinV2.__call__`; inputs besides the images: `stages`.

    The blocks of a stage share their position bias, as in feature distillation (arXiv:2205.14141);
    in Swin V2's release each block has its own.

    Attributes:
      size: "tiny", "small", "base", "large", or None, which requires dim, depths and heads.
      window: side of a window in patches; a stage with a smaller map uses the map's side.
      image_size: side of the images that the network is made for.
      patch: side of a patch in pixels.
      dim: width of the first stage; each later one doubles it and halves the map.
      depths, heads: blocks and attention heads of each stage; every second block has shifted
        windows.
      mlp_ratio: width of a perceptron over that of its stage.
      position_hidden: hidden width of the perceptron of the positions.
      drop_path: rate of stochastic depth in the last block; it falls to 0 in the first. The method
        must draw it.

    Raises:
      UserError: an unknown size, heads that do not divide the width, windows that do not tile the
        maps.
    """

    family: ClassVar[str] = "Swin V2"
    narrow: ClassVar[Mapping[str, Any]] = {
        "size": None,
        "dim": 8,
        "depths": (2, 2),
        "heads": (2, 2),
        "window": 4,
        "image_size": 32,
        "position_hidden": 8,
    }

    window: Count = 8
    image_size: Count = 256
    _: KW_ONLY
    mlp_ratio: Positive = 4.0
    position_hidden: Count = 512
    drop_path: BelowOne = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        dim, depths, heads = self.sizes
        if len(depths) != len(heads):
            raise UserError(
                f"depths {tuple(depths)} with heads {tuple(heads)}: expected a depth and a number "
                "of heads for each stage"
            )
        for s, count in enumerate(heads):
            check_options(dim * 2**s, count, "none")
        check_rate(self.drop_path, sum(depths))
        side, _ = patch_grid((self.image_size, self.image_size), self.patch)
        for s in range(len(depths)):
            check_windows(side // 2**s, self.window, s + 1)
            if side % 2**s:
                raise UserError(
                    f"backbone.image_size: {self.image_size} px are {side} patches, which cannot "
                    f"be halved {len(depths) - 1} times; use a multiple of "
                    f"{self.patch * 2 ** (len(depths) - 1)}"
                )

    @property
    def title(self) -> str:
        return f"swin_v2_{self.size or self.dim}"

    def layer_ids(self, path: str) -> int | Sequence[int]:
        _, depths, _ = self.sizes
        module, *rest = path.split("/")
        if module in ("patch_embed", "patch_norm"):
            return 0
        kind, number = module[:5], module[5:]
        if kind == "merge":
            return sum(depths[: int(number)])
        if kind != "stage":
            return self.num_layers + 1
        before = sum(depths[: int(number) - 1])
        return before + 1 + (int(rest[1]) if rest[0] == "blocks" else 0)

    def module(self, channels: int, rngs: nnx.Rngs) -> "SwinV2":
        return SwinV2(self, channels, rngs)


def check_windows(side: int, window: int, stage: int) -> None:
    """Check that windows tile the map of a stage.

    Raises:
      UserError: they do not.
    """
    if side < 1 or side % min(window, side):
        raise UserError(
            f"windows of {window} patches do not tile the {side} x {side} map of stage {stage}; "
            "change backbone.window or the image"
        )


class SwinV2(nnx.Module):
    """See `Config` for the options and `__call__` for the outputs."""

    def __init__(self, config: Config, channels: int, rngs: nnx.Rngs):
        dim, depths, heads = config.sizes
        dtype = compute_dtype(config.dtype)
        options: dict[str, Any] = dict(scheme="normal", dtype=dtype, rngs=rngs)
        self.patch, self.window, self.depths = config.patch, config.window, depths
        self.drop_path = config.drop_path
        self.patch_embed = config.patch_embed(channels, rngs)
        self.patch_norm = LayerNorm(dim, eps=EPS)
        for s, (depth, count) in enumerate(zip(depths, heads, strict=True)):
            width = dim * 2**s
            blocks = [SwinV2Block(width, count, config.mlp_ratio, **options) for _ in range(depth)]
            positions = ContinuousPositions(count, config.position_hidden, **options)
            setattr(self, f"stage{s + 1}", nnx.Dict(blocks=nnx.List(blocks), positions=positions))
            if s + 1 < len(depths):
                setattr(self, f"merge{s + 1}", SwinV2Merge(width, **options))
        self.norm = LayerNorm(dim * 2 ** (len(depths) - 1), eps=EPS)

    def __call__(
        self, images: Array, keys: Array | None = None, *, train: bool, stages: bool = False
    ) -> Features:
        """Map images (B, H, W, C) to the features of the N patches of the last stage.

        Args:
          images: square, of sides that fit the windows.
          keys: (B,) random keys, for `drop_path` in training.
          train: whether branches are dropped.
          stages: also return the map after every stage.

        Returns:
          `tokens` (B, N, D) and `map` after the final norm; `pooled` is their mean. The stages are
          "stage1", ..; the last one is after the final norm.

        Raises:
          UserError: an image that the windows do not tile.
        """
        depth = sum(self.depths)
        branch_factors = factors(keys, self.drop_path if train else 0.0, depth, branches=2)
        _, height, width, _ = images.shape
        patch_grid((height, width), self.patch)
        x = self.patch_norm(self.patch_embed(images))
        each, number = [], 0
        for s in range(1, len(self.depths) + 1):
            stage, side = getattr(self, f"stage{s}"), min(x.shape[1:3])
            window = min(self.window, side)
            for length in x.shape[1:3]:
                check_windows(length, window, s)
            bias = stage["positions"](window)
            for i, block in enumerate(stage["blocks"]):
                # A map of one window has nowhere to shift to.
                shift = window // 2 if i % 2 and window < side else 0
                x = block(
                    x,
                    bias,
                    window,
                    shift,
                    None if branch_factors is None else branch_factors[number],
                )
                number += 1
            each.append(x if s < len(self.depths) else self.norm(x))
            if s < len(self.depths):
                x = getattr(self, f"merge{s}")(x)
        last = _outputs(each[-1])
        pooled = jnp.mean(at_least_float32(last["tokens"]), axis=1)
        named = (Stage(name=f"stage{s + 1}", **_outputs(x)) for s, x in enumerate(each))
        return Features(pooled=pooled, stages=tuple(named) if stages else (), **last)


def _outputs(x: Array) -> dict[str, Array]:
    """Name a map (B, h, w, D) and its tokens (B, N, D)."""
    return {"map": x, "tokens": jnp.reshape(x, (x.shape[0], -1, x.shape[-1]))}


make = Config.make
