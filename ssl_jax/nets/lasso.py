"""A backbone whose map is a weighted sum of its last layers (Doersch and Zisserman 2017)."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import Array, Tree
from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net, output_shapes
from ssl_jax.nets.layers import at_least_float32


def combine(weights: Array, units: Array) -> Array:
    """Return `sum_u weights[u] units[u]` of units (U, ...); weights (..., U)."""
    return jnp.tensordot(weights, units, axes=1)


def shrink(x: Array, amount: float) -> Array:
    """Move every number towards 0 by `amount`, at most to 0: the proximal step of an L1 penalty."""
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - amount, 0)


def lasso(trunk: Net) -> Net:
    """Return `trunk` with a weighted sum of its units in place of its last map: the residual blocks
    of the last stage of a ResNet, the blocks of a ViT.

    Its parameters are {"trunk": those of the trunk, "alpha": weights (units,)}. The weights start
    equal, with a sum of 1.

    Raises:
      UserError: the units' maps have different shapes.
    """
    options = {"units": True} if hasattr(trunk.config, "stem") else {"stages": True}
    shapes = output_shapes(trunk, (32, 32, trunk.channels), **options)
    maps = {None if s.map is None else s.map.shape for s in shapes.stages}
    if len(maps) != 1 or None in maps:
        raise UserError(
            f"lasso: the layers of {trunk.name} have maps of different sizes; use a ViT"
        )
    count = len(shapes.stages)

    def init(key: Array) -> tuple[Tree, Tree]:
        params, stats = trunk.init(key)
        return {"trunk": params, "alpha": jnp.full((count,), 1 / count)}, stats

    def apply(params: Tree, stats: Tree, images: Array, **others: Any) -> tuple[Features, Tree]:
        others.pop("stages", None)
        features, stats = trunk.apply(params["trunk"], stats, images, **others, **options)
        units = jnp.stack([stage.map for stage in features.stages])
        summed = combine(params["alpha"].astype(units.dtype), units)
        pooled = jnp.mean(at_least_float32(summed), (1, 2))
        return Features(pooled=pooled, map=summed), stats

    return replace(trunk, init=init, apply=apply)
