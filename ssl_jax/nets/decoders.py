"""Decoders that reconstruct masked input from an encoder's tokens."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import Array
from ssl_jax.nets.blocks import Remat, check_options, linear, run_stack, stack, token
from ssl_jax.nets.functional import Net, functional
from ssl_jax.nets.layers import (
    DType,
    LayerNorm,
    at_least_float32,
    compute_dtype,
    torch_default,
)
from ssl_jax.nets.positions import Grid, sincos


class MAEDecoder(nnx.Module):
    """See `mae_decoder`."""

    def __init__(
        self,
        encoder_dim: int,
        *,
        dim: int,
        depth: int,
        heads: int,
        grid: Grid,
        out_dim: int,
        cls_token: bool,
        mlp_ratio: float,
        remat: Remat,
        dtype: DType,
        rngs: nnx.Rngs,
    ):
        options: dict[str, Any] = dict(scheme="xavier", dtype=dtype, rngs=rngs)
        self.grid, self.cls_token, self.remat = grid, cls_token, remat
        self.embed = linear(encoder_dim, dim, **options)
        self.mask_token = token(0.02, 1, dim, rngs=rngs)
        self.blocks = stack(depth, dim, heads, mlp_ratio=mlp_ratio, **options)
        self.norm = LayerNorm(dim)
        self.pred = linear(dim, out_dim, **options)

    def __call__(self, tokens: Array, ids_restore: Array, *, train: bool) -> Array:
        """Tokens (B, T, encoder_dim), ids_restore (B, N) int -> (B, N, out_dim) float32.

        The T tokens are the class token, if there is one, and those of the visible patches.
        `ids_restore[b, i]` is the index of patch i in the visible patches followed by the masked
        ones.
        """
        del train
        if ids_restore.shape[1] != self.grid[0] * self.grid[1]:
            raise UserError(f"{ids_restore.shape[1]} patches do not fill the grid {self.grid}")
        x = self.embed(tokens)
        batch, count, dim = x.shape
        first = int(self.cls_token)  # index of the first patch
        missing = ids_restore.shape[1] - (count - first)
        masks = jnp.broadcast_to(jnp.asarray(self.mask_token[...], x.dtype), (batch, missing, dim))
        patches = jnp.concatenate([x[:, first:], masks], axis=1)
        patches = jnp.take_along_axis(patches, ids_restore[:, :, None], axis=1)
        x = jnp.concatenate([x[:, :first], patches], axis=1)
        x = x + jnp.asarray(sincos(dim, self.grid, cls_token=self.cls_token)[None], x.dtype)
        x, _ = run_stack(self.blocks, x, self.remat)
        return at_least_float32(self.pred(self.norm(x))[:, first:])


def mae_decoder(
    encoder_dim: int,
    dim: int = 512,
    depth: int = 8,
    heads: int = 16,
    *,
    grid: Grid = (14, 14),
    out_dim: int = 16 * 16 * 3,
    cls_token: bool = True,
    mlp_ratio: float = 4.0,
    remat: Remat = "none",
    dtype: DType = None,
) -> Net:
    """The decoder of MAE (He et al. 2021, arXiv:2111.06377, official `models_mae.py`).

    `apply(params, stats, tokens, ids_restore, train=...)`: a linear layer to `dim`, a mask token at
    each missing patch, fixed sin-cos positions, transformer blocks, norm, and a linear layer to
    `out_dim` values per patch. Shapes: `MAEDecoder.__call__`.

    Args:
      encoder_dim: width of the tokens.
      dim, depth, heads, mlp_ratio: sizes of the decoder's transformer.
      grid: rows and columns of patches, N in all.
      out_dim: values per patch: patch * patch * channels.
      cls_token: whether a class token comes first.
      remat, dtype: as for `vit`.

    Raises:
      UserError: heads that do not divide `dim`, a `dim` that 4 does not divide, an unknown remat
        policy.
    """
    check_options(dim, heads, remat)
    sincos(dim, grid)  # raises for an invalid width
    compute_dtype(dtype)

    def make(rngs: nnx.Rngs) -> MAEDecoder:
        return MAEDecoder(
            encoder_dim,
            dim=dim,
            depth=depth,
            heads=heads,
            grid=grid,
            out_dim=out_dim,
            cls_token=cls_token,
            mlp_ratio=mlp_ratio,
            remat=remat,
            dtype=compute_dtype(dtype),
            rngs=rngs,
        )

    return functional(make, f"mae_decoder_{dim}x{depth}")


class PixelDecoder(nnx.Module):
    """See `pixel_decoder`."""

    def __init__(self, dim: int, stride: int, channels: int, *, dtype: DType, rngs: nnx.Rngs):
        self.stride = stride
        init, out = torch_default(dim), stride * stride * channels
        self.linear = nnx.Linear(dim, out, kernel_init=init, bias_init=init, dtype=dtype, rngs=rngs)

    def __call__(self, patches: Array, *, train: bool) -> Array:
        """Decode (B, h, w, D) to images (B, h stride, w stride, C) float32."""
        del train
        return pixel_shuffle(at_least_float32(self.linear(patches)), self.stride)


def pixel_decoder(dim: int, stride: int, channels: int, *, dtype: DType = None) -> Net:
    """The decoder of SimMIM (Xie et al. 2021, arXiv:2111.09886): a linear layer to pixels.

    `apply(params, stats, patches, train=...)`; shapes: `PixelDecoder.__call__`.

    Args:
      dim: width of the patches' features.
      stride: side of a patch in pixels of the image.
      channels: channels of the image.
      dtype: of the computation; None follows the parameters, which are made float32.

    Raises:
      UserError: an argument below 1.
    """
    if min(dim, stride, channels) < 1:
        raise UserError(
            f"dim={dim}, stride={stride}, channels={channels}: expected positive numbers"
        )
    compute_dtype(dtype)

    def make(rngs: nnx.Rngs) -> PixelDecoder:
        return PixelDecoder(dim, stride, channels, dtype=compute_dtype(dtype), rngs=rngs)

    return functional(make, f"pixel_decoder_{dim}")


class ConvDecoder(nnx.Module):
    """See `conv_decoder`."""

    def __init__(
        self,
        dim: int,
        width: int,
        depth: int,
        stride: int,
        channels: int,
        *,
        dtype: DType,
        rngs: nnx.Rngs,
    ):
        self.depth = depth
        self.embed = linear(dim, width, scheme="xavier", dtype=dtype, rngs=rngs)
        for i in range(1, depth + 1):
            setattr(self, f"norm{i}", LayerNorm(width))
            setattr(self, f"conv{i}", nnx.Conv(width, width, (3, 3), dtype=dtype, rngs=rngs))
        self.pixels = PixelDecoder(width, stride, channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array, *, train: bool) -> Array:
        """Decode (B, h, w, dim) to images (B, h stride, w stride, C) float32."""
        x = self.embed(x)
        for i in range(1, self.depth + 1):
            branch = getattr(self, f"conv{i}")(getattr(self, f"norm{i}")(x))
            x = x + jax.nn.gelu(branch, approximate=False)
        return self.pixels(x, train=train)


def conv_decoder(
    dim: int, width: int, depth: int, stride: int, channels: int, *, dtype: DType = None
) -> Net:
    """A small decoder of a map: a linear layer to `width`, `depth` residual 3x3 convolutions, each
    after a layer norm and before an exact GELU, and a linear layer to the pixels.

    `apply(params, stats, map, train=...)`; shapes: `ConvDecoder.__call__`. The other arguments are
    those of `pixel_decoder`.
    """
    make = lambda rngs: ConvDecoder(  # noqa: E731
        dim, width, depth, stride, channels, dtype=compute_dtype(dtype), rngs=rngs
    )
    return functional(make, f"conv_decoder_{width}x{depth}")


def pixel_shuffle(x: Array, stride: int) -> Array:
    """Reshape (B, h, w, C stride^2) to (B, h stride, w stride, C): each position becomes a square.

    The channels hold (channel, row, column) of the square, as in PyTorch's `PixelShuffle`.
    """
    b, h, w, _ = x.shape
    x = jnp.reshape(x, (b, h, w, -1, stride, stride))
    return jnp.reshape(jnp.transpose(x, (0, 1, 4, 2, 5, 3)), (b, h * stride, w * stride, -1))
