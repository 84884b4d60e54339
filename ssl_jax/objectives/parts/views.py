"""Views in example-major order: an example's views are adjacent, so that folding moves no data."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

Array = jax.Array


def fold(*groups: Array) -> Array:
    """Fold groups of views of one size, each (B, n, ...), to (B * sum(n), ...), example-major.

    With two views in all, the positive of row i is row `i ^ 1`.
    """
    x = groups[0] if len(groups) == 1 else jnp.concatenate(groups, axis=1)
    return x.reshape(-1, *x.shape[2:])


def separate(groups: Sequence[Array]) -> list[Array]:
    """Split groups of views (B, n, H, W, C) into single views (B, H, W, C), in order."""
    return [group[:, i] for group in groups for i in range(group.shape[1])]


def unfold(x: Array, views: int) -> Array:
    """Reshape (B * views, ...) back to (B, views, ...)."""
    return x.reshape(-1, views, *x.shape[1:])
