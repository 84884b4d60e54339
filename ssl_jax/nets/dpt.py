"""DPT: a decoder of four maps of a backbone to one prediction per pixel (Ranftl et al. 2021,
arXiv:2103.13413), as DINOv2's depth evaluation builds it (`decode_heads/dpt_head.py`).

Where it differs from the release: a map is resized to the sides of the next one, which is the
published factor of 2 where the sides are even, and bilinear resizing does not align corners.
"""

import functools
from typing import Any

import jax
from flax import nnx

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import Array
from ssl_jax.nets.functional import Net, functional
from ssl_jax.nets.layers import torch_default

LEVELS = 4
LAST = 32  # channels before the outputs


def _conv(
    inputs: int, outputs: int, side: int, rngs: nnx.Rngs, stride: int = 1, bias: bool = True
) -> nnx.Conv:
    init = torch_default(side * side * inputs)
    inits: dict[str, Any] = dict(kernel_init=init, bias_init=init)
    shape: dict[str, Any] = dict(strides=stride, padding=side // 2, use_bias=bias)
    return nnx.Conv(inputs, outputs, (side, side), rngs=rngs, **shape, **inits)


def _resized(x: Array, shape: tuple[int, ...]) -> Array:
    """Resize maps (B, h, w, C) bilinearly."""
    if x.shape[1:3] == tuple(shape):
        return x
    return jax.image.resize(x, (len(x), *shape, x.shape[-1]), "linear", antialias=False)


class Reassemble(nnx.Module):
    """Maps a block's output (B, h, w, D) of level 0 to 3 to (B, s h, s w, D / 2^(3 - level)) with s
    = 4, 2, 1 and 1/2 (section 3, equations 1 to 6). With a class token the input is (B, h, w, 2 D)
    and is projected to D first, with a GELU ("project").
    """

    def __init__(self, level: int, dim: int, class_token: bool, rngs: nnx.Rngs):
        self.readout = _conv(2 * dim, dim, 1, rngs) if class_token else None
        self.width = max(dim // 2 ** (LEVELS - 1 - level), 1)
        self.project = _conv(dim, self.width, 1, rngs)
        self.level = level
        self.resample: nnx.Conv | nnx.ConvTranspose
        if level < 2:
            factor = 4 // 2**level
            init = torch_default(factor * factor * self.width)
            size: dict[str, Any] = dict(strides=factor, padding="VALID")
            self.resample = nnx.ConvTranspose(
                *(self.width, self.width, (factor, factor)),
                **size,
                kernel_init=init,
                bias_init=init,
                rngs=rngs,
            )
        elif level == LEVELS - 1:
            self.resample = _conv(self.width, self.width, 3, rngs, stride=2)

    def __call__(self, x: Array) -> Array:
        if self.readout is not None:
            x = jax.nn.gelu(self.readout(x), approximate=False)
        x = self.project(x)
        return x if self.level == 2 else self.resample(x)


class ResidualUnit(nnx.Module):
    """x + conv(relu(conv(relu(x)))), two 3x3 convolutions without biases."""

    def __init__(self, channels: int, rngs: nnx.Rngs):
        self.conv1 = _conv(channels, channels, 3, rngs, bias=False)
        self.conv2 = _conv(channels, channels, 3, rngs, bias=False)

    def __call__(self, x: Array) -> Array:
        return x + self.conv2(jax.nn.relu(self.conv1(jax.nn.relu(x))))


class DPT(nnx.Module):
    """See `dpt`."""

    def __init__(
        self,
        widths: tuple[int, ...],
        channels: int,
        outputs: int,
        reassemble: bool,
        class_token: bool,
        rngs: nnx.Rngs,
    ):
        dims = [width // 2 if class_token else width for width in widths]
        blocks = [Reassemble(i, dim, class_token, rngs) for i, dim in enumerate(dims)]
        self.reassemble = nnx.List(blocks) if reassemble else None
        inputs = [block.width for block in blocks] if reassemble else list(widths)
        self.convs = nnx.List([_conv(n, channels, 3, rngs, bias=False) for n in inputs])
        # The smallest map has nothing to be added to.
        self.units = nnx.List([ResidualUnit(channels, rngs) for _ in range(LEVELS - 1)])
        self.fused = nnx.List([ResidualUnit(channels, rngs) for _ in range(LEVELS)])
        self.projects = nnx.List([_conv(channels, channels, 1, rngs) for _ in range(LEVELS)])
        self.project = _conv(channels, channels, 3, rngs)
        self.head1 = _conv(channels, max(channels // 2, 1), 3, rngs)
        self.head2 = _conv(max(channels // 2, 1), LAST, 3, rngs)
        self.out = _conv(LAST, outputs, 1, rngs)

    def __call__(self, *maps: Array, train: bool) -> Array:
        del train
        if self.reassemble is not None:
            maps = tuple(block(x) for block, x in zip(self.reassemble, maps, strict=True))
        levels = [conv(x) for conv, x in zip(self.convs, maps, strict=True)]
        x = levels[-1]
        for i in reversed(range(LEVELS)):
            if i < LEVELS - 1:
                x = x + self.units[i](levels[i])
            x = self.fused[i](x)
            x = self.projects[i](_resized(x, levels[i - 1].shape[1:3] if i else _doubled(x)))
        x = self.head1(jax.nn.relu(self.project(x)))
        x = self.head2(_resized(x, _doubled(x)))
        return self.out(jax.nn.relu(x))


def _doubled(x: Array) -> tuple[int, int]:
    return 2 * x.shape[1], 2 * x.shape[2]


@functools.cache
def dpt(
    widths: tuple[int, ...],
    channels: int,
    outputs: int,
    reassemble: bool,
    class_token: bool = False,
) -> Net:
    """Return the decoder of four maps (B, h_i, w_i, widths[i]), from the earliest: `apply(params,
    {}, *maps, train=...)` gives (B, 4 h, 4 w, outputs), (h, w) being the sides of the first level.

    Args:
      channels: of the fusion blocks.
      reassemble: the maps have one size (those of a transformer) and become a pyramid, whose first
        level is four times as large; else they are a pyramid already.
      class_token: the second half of the channels is the class token ("project").

    Raises:
      UserError: not four maps.
    """
    if len(widths) != LEVELS:
        raise UserError(f"dpt: expected the maps of {LEVELS} stages, got {len(widths)}")
    if class_token and not reassemble:
        raise UserError("dpt: a class token is joined to maps of one size, not to a pyramid")
    return functional(
        lambda rngs: DPT(widths, channels, outputs, reassemble, class_token, rngs), "dpt"
    )
