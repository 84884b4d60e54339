"""The pixel propagation module of PixPro (2011.10043, section 3.2)."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import Array
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.nets.functional import Net, functional
from ssl_jax.nets.heads import MlpHead


class PixelPropagation(nnx.Module):
    """See `pixel_propagation`."""

    def __init__(self, dim: int, widths: Sequence[int], sharpness: float, rngs: nnx.Rngs):
        self.sharpness = sharpness
        self.transform = (
            MlpHead(
                (dim, *widths),
                norm="batch",
                last_norm=None,
                hidden_bias=True,
                last_bias=True,
                init="torch",
                activation="relu",
                dtype=None,
                rngs=rngs,
            )
            if widths
            else None
        )

    def __call__(self, x: Array, *, train: bool) -> Array:
        """Map (B, h, w, dim) to (B, h, w, dim), in at least float32."""
        values = x if self.transform is None else self.transform(x, train=train)
        pixels, values = (
            l2_normalize(y, floor="norm").reshape(len(x), -1, y.shape[-1]) for y in (x, values)
        )
        cosines = jnp.einsum("bid,bjd->bij", pixels, pixels, precision="highest")
        weights = jnp.maximum(cosines, 0) ** self.sharpness
        return jnp.einsum("bij,bjd->bid", weights, values, precision="highest").reshape(x.shape)


def pixel_propagation(dim: int, widths: Sequence[int], sharpness: float = 2.0) -> Net:
    """The sum over all pixels j of a map, for each pixel i, of `max(cos(x_i, x_j), 0)^s g(x_j)`:
    pixels of similar features become more similar.

    g is a linear layer, or several with batch norm and ReLU between them, and its outputs have unit
    length, as released (featprop in contrast/models/PixPro.py). The sum is not normalised.
    `apply(params, stats, map, train=...)`; shapes: `PixelPropagation.__call__`.

    Args:
      dim: width of the map.
      widths: widths of the layers of g, the last one `dim`; without a layer g is the identity.
      sharpness: s, the paper's gamma.

    Raises:
      UserError: a last width other than `dim`.
    """
    if widths and widths[-1] != dim:
        raise UserError(
            f"pixel propagation: the last width of {tuple(widths)} must be that of the map, {dim}"
        )
    return functional(
        lambda rngs: PixelPropagation(dim, widths, sharpness, rngs), f"propagation_{dim}"
    )
