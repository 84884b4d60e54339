"""Discriminators: networks that tell generated images from real ones, patch by patch."""

from itertools import pairwise
from typing import Any

import jax
from flax import nnx

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import Array
from ssl_jax.nets.functional import Net, functional
from ssl_jax.nets.layers import DType, at_least_float32, compute_dtype
from ssl_jax.nets.resampling import halved, instance_norm, xavier_conv

SLOPE = 0.2  # of the leaky ReLU
MOST = 8  # times the first width


class PatchDiscriminator(nnx.Module):
    """See `patch_discriminator`."""

    def __init__(self, channels: int, width: int, layers: int, dtype: DType, rngs: nnx.Rngs):
        options: dict[str, Any] = {"padding": 1, "dtype": compute_dtype(dtype), "rngs": rngs}
        widths = [channels, *(width * min(2**i, MOST) for i in range(layers + 1))]
        self.layers = layers
        for i, (inputs, outputs) in enumerate(pairwise(widths), 1):
            setattr(self, f"conv{i}", xavier_conv(inputs, outputs, 4, bias=i == 1, **options))
        self.out = xavier_conv(widths[-1], 1, 4, bias=True, **options)

    def __call__(self, x: Array, *, train: bool) -> Array:
        """Map images (B, H, W, C) to scores (B, h, w, 1) float32.

        Raises:
          UserError: images so small that no patch is left.
        """
        del train
        height, width = x.shape[1:3]
        for i in range(1, self.layers + 2):
            if min(x.shape[1:3]) < 3:
                raise UserError(
                    f"discriminator: images of {height} x {width} px are too small for "
                    f"{self.layers} layers; use a larger view or fewer layers"
                )
            x = getattr(self, f"conv{i}")(x)
            x = jax.nn.leaky_relu(x if i == 1 else instance_norm(x), SLOPE)
            x = halved(x) if i <= self.layers else x
        return at_least_float32(self.out(x))


def patch_discriminator(
    channels: int, width: int = 64, layers: int = 3, dtype: DType = None
) -> Net:
    """A PatchGAN discriminator (Isola et al. 2017, arXiv:1611.07004) with instance norm: 4x4
    convolutions with leaky ReLU, `layers` of which halve the sides; three see 70 x 70 pixels.

    `apply(params, stats, images, train=...)`; shapes: `PatchDiscriminator.__call__`. The halvings
    do not alias (CUT's models/networks.py, NLayerDiscriminator).

    Args:
      channels: of the images.
      width: channels of the first convolution; the next ones have twice as many each, at most 8
        times.
      layers: halvings.
      dtype: dtype of the computation.
    """
    make = lambda rngs: PatchDiscriminator(channels, width, layers, dtype, rngs)  # noqa: E731
    return functional(make, f"patch_discriminator_{width}")
