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

SCALES = (0.5, 1.0, 2.0, 4.0)  # sides of a decoder's output map, per side of the encoder's


class Rescale(nnx.Module):
    """Changes the sides of a map (B, h, w, dim) by one of `SCALES` (Wang et al. 2023,
    arXiv:2303.05251, official `models_mim.py`): 1/2 is an average, 2 a transposed convolution to
    half the channels, 4 two of them with a norm and GELU between. `out_dim` is the result's width.
    """

    def __init__(self, dim: int, scale: float, *, dtype: DType, rngs: nnx.Rngs):
        def double(dim: int) -> nnx.ConvTranspose:
            init = torch_default(4 * (dim // 2))  # PyTorch counts the outputs here
            size: dict[str, Any] = dict(kernel_size=(2, 2), strides=2, padding="VALID")
            inits: dict[str, Any] = dict(kernel_init=init, bias_init=init)
            return nnx.ConvTranspose(dim, dim // 2, dtype=dtype, rngs=rngs, **size, **inits)

        self.scale, self.out_dim = scale, round(dim / max(scale, 1))
        self.up1 = double(dim) if scale > 1 else None
        self.norm = LayerNorm(dim // 2) if scale > 2 else None
        self.up2 = double(dim // 2) if scale > 2 else None

    def __call__(self, x: Array) -> Array:
        if self.scale < 1:
            b, h, w, dim = x.shape
            return jnp.reshape(x, (b, h // 2, 2, w // 2, 2, dim)).mean((2, 4))
        if self.up1 is not None:
            x = self.up1(x)
        if self.norm is not None and self.up2 is not None:
            x = self.up2(jax.nn.gelu(self.norm(x), approximate=False))
        return x


def check_scale(scale: float, dim: int, grid: Grid) -> None:
    """Check the scale of a decoder of a grid of patches.

    Raises:
      UserError: an unknown scale, a width that it does not divide, an odd grid to be halved.
    """
    if scale not in SCALES:
        raise UserError(f"decoder: expected a scale among {SCALES}, got {scale}")
    if scale > 1 and dim % scale:
        raise UserError(f"decoder: a scale of {scale:g} does not divide a width of {dim}")
    if scale < 1 and any(n % 2 for n in grid):
        raise UserError(f"decoder: a grid of {grid[0]} x {grid[1]} has no half; use a scale of 1")


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
        scale: float,
        norm_input: bool,
        mlp_ratio: float,
        remat: Remat,
        dtype: DType,
        rngs: nnx.Rngs,
    ):
        options: dict[str, Any] = dict(scheme="xavier", dtype=dtype, rngs=rngs)
        self.grid, self.cls_token, self.remat = grid, cls_token, remat
        self.norm_input = LayerNorm(encoder_dim) if norm_input else None
        self.embed = linear(encoder_dim, dim, **options)
        self.mask_token = token(0.02, 1, dim, rngs=rngs)
        self.blocks = stack(depth, dim, heads, mlp_ratio=mlp_ratio, **options)
        self.norm = LayerNorm(dim)
        self.rescale = Rescale(dim, scale, dtype=dtype, rngs=rngs)
        self.pred = linear(self.rescale.out_dim, out_dim, **options)

    def __call__(self, tokens: Array, ids_restore: Array, *, train: bool) -> Array:
        """Tokens (B, T, encoder_dim), ids_restore (B, N) int -> (B, N scale^2, out_dim) float32.

        The T tokens are the class token, if there is one, and those of the visible patches.
        `ids_restore[b, i]` is the index of patch i in the visible patches followed by the masked
        ones.
        """
        del train
        if ids_restore.shape[1] != self.grid[0] * self.grid[1]:
            raise UserError(f"{ids_restore.shape[1]} patches do not fill the grid {self.grid}")
        x = self.embed(tokens if self.norm_input is None else self.norm_input(tokens))
        batch, count, dim = x.shape
        first = int(self.cls_token)  # index of the first patch
        missing = ids_restore.shape[1] - (count - first)
        masks = jnp.broadcast_to(jnp.asarray(self.mask_token[...], x.dtype), (batch, missing, dim))
        patches = jnp.concatenate([x[:, first:], masks], axis=1)
        patches = jnp.take_along_axis(patches, ids_restore[:, :, None], axis=1)
        x = jnp.concatenate([x[:, :first], patches], axis=1)
        x = x + jnp.asarray(sincos(dim, self.grid, cls_token=self.cls_token)[None], x.dtype)
        x, _ = run_stack(self.blocks, x, self.remat)
        x = self.norm(x)
        if self.rescale.scale == 1:  # as a map, it would be copied several times on a TPU
            return at_least_float32(self.pred(x)[:, first:])
        x = self.rescale(jnp.reshape(x[:, first:], (batch, *self.grid, dim)))
        return at_least_float32(jnp.reshape(self.pred(x), (batch, -1, self.pred.out_features)))


def as_encoder(encoder: Net) -> dict[str, Any]:
    """Return the options of a decoder whose backward pass and dtype are those of its encoder."""
    options = {name: getattr(encoder.config, name, None) for name in ("remat", "dtype")}
    return {name: value for name, value in options.items() if value is not None}


def mae_decoder(
    encoder_dim: int,
    dim: int = 512,
    depth: int = 8,
    heads: int = 16,
    *,
    grid: Grid = (14, 14),
    out_dim: int = 16 * 16 * 3,
    cls_token: bool = True,
    scale: float = 1.0,
    norm_input: bool = False,
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
      scale: sides of the predicted grid per side of the patches' grid; see `Rescale`.
      norm_input: norm the tokens first, if they come from an inner layer of the encoder.
      remat, dtype: as for `vit`.

    Raises:
      UserError: heads that do not divide `dim`, a `dim` that 4 does not divide, an unknown remat
        policy, an invalid scale.
    """
    check_options(dim, heads, remat)
    check_scale(scale, dim, grid)
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
            scale=scale,
            norm_input=norm_input,
            mlp_ratio=mlp_ratio,
            remat=remat,
            dtype=compute_dtype(dtype),
            rngs=rngs,
        )

    return functional(make, f"mae_decoder_{dim}x{depth}")


class MapDecoder(nnx.Module):
    """See `map_decoder`."""

    def __init__(
        self,
        encoder_dim: int,
        *,
        out_dim: int,
        scale: float,
        norm_input: bool,
        dtype: DType,
        rngs: nnx.Rngs,
    ):
        self.norm_input = LayerNorm(encoder_dim) if norm_input else None
        self.rescale = Rescale(encoder_dim, scale, dtype=dtype, rngs=rngs)
        self.pred = linear(self.rescale.out_dim, out_dim, scheme="xavier", dtype=dtype, rngs=rngs)

    def __call__(self, x: Array, *, train: bool) -> Array:
        """Decode a map (B, h, w, encoder_dim) to (B, h w scale^2, out_dim) float32, row by row."""
        del train
        x = x if self.norm_input is None else self.norm_input(x)
        x = self.pred(self.rescale(x))
        return at_least_float32(jnp.reshape(x, (x.shape[0], -1, x.shape[-1])))


def map_decoder(
    encoder_dim: int,
    *,
    grid: Grid,
    out_dim: int,
    scale: float = 1.0,
    norm_input: bool = False,
    dtype: DType = None,
) -> Net:
    """A linear decoder of a map without missing patches: a change of its sides, and a linear layer.

    `apply(params, stats, map, train=...)`; shapes: `MapDecoder.__call__`.

    Args:
      encoder_dim: width of the map.
      grid: rows and columns of the map.
      out_dim: values per position of the output.
      scale, norm_input, dtype: as for `mae_decoder`.

    Raises:
      UserError: an invalid scale.
    """
    check_scale(scale, encoder_dim, grid)
    compute_dtype(dtype)

    def make(rngs: nnx.Rngs) -> MapDecoder:
        return MapDecoder(
            encoder_dim,
            out_dim=out_dim,
            scale=scale,
            norm_input=norm_input,
            dtype=compute_dtype(dtype),
            rngs=rngs,
        )

    return functional(make, f"map_decoder_{encoder_dim}")


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
