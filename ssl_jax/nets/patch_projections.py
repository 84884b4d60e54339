"""Perceptrons that project cells of several maps, one per map (F of CUT, 2007.15651)."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from ssl_jax.core.tree import Array
from ssl_jax.nets.functional import Net, functional
from ssl_jax.nets.layers import DType, at_least_float32, compute_dtype, normal
from ssl_jax.nets.resampling import GAIN

EPS = 1e-7  # added to the length, as in the release


class PatchProjections(nnx.Module):
    """See `patch_projections`."""

    def __init__(self, inputs: Sequence[int], width: int, dtype: DType, rngs: nnx.Rngs):
        self.count = len(inputs)

        def linear(features: int) -> nnx.Linear:
            init = normal(GAIN * math.sqrt(2 / (features + width)))
            kind = compute_dtype(dtype)
            return nnx.Linear(features, width, kernel_init=init, dtype=kind, rngs=rngs)

        for i, features in enumerate(inputs, 1):
            setattr(self, f"map{i}", nnx.List([linear(features), linear(width)]))

    def __call__(self, *cells: Array, train: bool) -> tuple[Array, ...]:
        """Project cells (B, P, C) of each map to unit vectors (B, P, width) float32."""
        del train
        out = []
        for i, x in enumerate(cells, 1):
            first, second = getattr(self, f"map{i}")
            x = at_least_float32(second(jax.nn.relu(first(x))))
            square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
            # The floor gives a zero vector a gradient of zero, not NaN.
            out.append(x / (jnp.sqrt(jnp.maximum(square, EPS**4)) + EPS))
        return tuple(out)


def patch_projections(inputs: Sequence[int], width: int = 256, dtype: DType = None) -> Net:
    """Perceptrons of two layers with ReLU between them, one for each map, to unit vectors.

    `apply(params, stats, *cells, train=...)`; shapes: `PatchProjections.__call__`.

    Args:
      inputs: channels of each map.
      width: of both layers.
      dtype: dtype of the computation.
    """
    make = lambda rngs: PatchProjections(inputs, width, dtype, rngs)  # noqa: E731
    return functional(make, "patch_projections")


def cells_at(maps: Sequence[Array], places: Sequence[Array]) -> list[Array]:
    """Take the cells (B, P, C) at some places (P,), row by row, of each map (B, h, w, C)."""
    cells = (x.reshape(len(x), -1, x.shape[-1]) for x in maps)
    return [x[:, at] for x, at in zip(cells, places, strict=True)]
