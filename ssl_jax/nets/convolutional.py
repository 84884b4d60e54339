"""Convolutional decoders: from a code to an image."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import Array
from ssl_jax.nets.functional import Net, functional
from ssl_jax.nets.layers import BatchNorm, at_least_float32, conv


class CodeDecoder(nnx.Module):
    """See `code_decoder`."""

    def __init__(
        self, dim: int, width: int, grid: Sequence[int], doublings: int, out: int, rngs: nnx.Rngs
    ):
        self.grid, self.doublings = tuple(grid), doublings
        widths = [width * 2**i for i in reversed(range(doublings + 1))]
        self.linear = nnx.Linear(dim, math.prod(grid) * widths[0], rngs=rngs)
        self.norm0 = BatchNorm(widths[0])
        for i in range(1, doublings + 1):
            setattr(self, f"conv{i}", conv(widths[i - 1], widths[i], 3, 1, dtype=None, rngs=rngs))
            setattr(self, f"norm{i}", BatchNorm(widths[i]))
        self.out = nnx.Conv(width, out, (3, 3), rngs=rngs)

    def __call__(self, code: Array, *, train: bool) -> Array:
        """Decode (B, dim) to (B, H, W, out) float32."""
        x = jnp.reshape(self.linear(code), (len(code), *self.grid, -1))
        x = jax.nn.relu(self.norm0(x, train=train))
        for i in range(1, self.doublings + 1):
            x = getattr(self, f"conv{i}")(x.repeat(2, axis=1).repeat(2, axis=2))
            x = jax.nn.relu(getattr(self, f"norm{i}")(x, train=train))
        return at_least_float32(self.out(x))


def code_decoder(dim: int, width: int, grid: Sequence[int], sides: Sequence[int], out: int) -> Net:
    """A decoder of one vector per image: a linear map to a grid, then repeated doubling of its
    sides (nearest neighbour) with a 3x3 convolution, batch norm and ReLU each.

    `apply(params, stats, code, train=...)`; shapes: `CodeDecoder.__call__`.

    Args:
      dim: width of the code.
      width: channels at the resolution of the image; each halving doubles them.
      grid: rows and columns of the first map.
      sides: height and width of the image, 2^k times those of the grid.
      out: channels of the image.

    Raises:
      UserError: sides that are not 2^k times those of the grid.
    """
    doublings = round(math.log2(sides[0] / grid[0]))
    if doublings < 0 or tuple(n * 2**doublings for n in grid) != tuple(sides):
        raise UserError(
            f"decoder: an image of {sides[0]} x {sides[1]} px is not 2^k times the backbone's map "
            f"of {grid[0]} x {grid[1]}; use another view.size"
        )
    make = lambda rngs: CodeDecoder(dim, width, grid, doublings, out, rngs)  # noqa: E731
    return functional(make, f"code_decoder_{width}")


class Upsampler(nnx.Module):
    """See `upsampler`."""

    def __init__(self, dim: int, width: int, out: int, rngs: nnx.Rngs):
        # The kernel is that of the convolution of the input with zeros in between: padded by 2 it
        # is PyTorch's ConvTranspose2d(4, stride=2, padding=1) with a mirrored kernel.
        pad = ((2, 2), (2, 2))
        self.up = nnx.ConvTranspose(dim, width, (4, 4), strides=2, padding=pad, rngs=rngs)
        self.conv1 = nnx.Conv(width, width, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(width, width, (3, 3), rngs=rngs)
        self.out = nnx.Linear(width, out, rngs=rngs)

    def __call__(self, x: Array, *, train: bool) -> Array:
        """Map (B, h, w, dim) to (B, 2h, 2w, out) float32."""
        del train
        for layer in (self.up, self.conv1, self.conv2):
            x = jax.nn.relu(layer(x))
        return at_least_float32(self.out(x))


def upsampler(dim: int, width: int, out: int) -> Net:
    """A decoder that doubles the sides of a map: a transposed 4x4 convolution, two of 3x3, each
    with ReLU, and a linear map to `out` channels (conv8 of Zhang et al. 2016, arXiv:1603.08511).

    `apply(params, stats, map, train=...)`; shapes: `Upsampler.__call__`.
    """
    return functional(lambda rngs: Upsampler(dim, width, out, rngs), f"upsampler_{width}")
