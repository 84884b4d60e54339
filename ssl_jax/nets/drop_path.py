"""Stochastic depth (Huang et al. 2016, arXiv:1603.09382): randomly dropped residual branches."""

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import Array


def check_rate(rate: float, depth: int, uniform: bool = False) -> None:
    """Check the rate of stochastic depth.

    Raises:
      UserError: a rate outside [0, 1), or a positive one for a single block.
    """
    if not 0 <= rate < 1:
        raise UserError(f"backbone.drop_path: expected a rate in [0, 1), got {rate}")
    if rate and depth < 2 and not uniform:
        raise UserError(
            f"backbone.drop_path: {rate} has no effect on {depth} block, as the first never drops; "
            "set it to 0"
        )


def rates(rate: float, depth: int) -> np.ndarray:
    """Return the drop rates of all blocks, (depth,): 0 for the first, `rate` for the last."""
    return np.linspace(0, rate, depth)


def factors(
    keys: Array | None, rate: float, depth: int, branches: int = 1, uniform: bool = False
) -> Array | None:
    """Draw the factor of each branch of each block, (depth, branches, B): 0, or 1 / (1 - rate of
    the block); None for a rate of 0.

    Args:
      keys: (B,), one per example: its draws do not depend on its place in the batch.
      rate, uniform: the rate of the last block, and whether it is that of all blocks.

    Raises:
      UserError: no keys.
    """
    if rate == 0:
        return None
    if keys is None:
        raise UserError("backbone.drop_path: this method draws no stochastic depth; set it to 0")
    keep_probability = 1 - (np.full(depth, rate) if uniform else rates(rate, depth))[:, None]
    draws = jax.vmap(lambda key: jax.random.uniform(key, (depth, branches)))(keys)
    return jnp.moveaxis(jnp.where(draws < keep_probability, 1 / keep_probability, 0.0), 0, -1)


def drop(branch: Array, factor: Array | None) -> Array:
    """Multiply `branch` (B, ...) by `factor` (B,); return it unchanged without one."""
    if factor is None:
        return branch
    return branch * factor.reshape(-1, *[1] * (branch.ndim - 1)).astype(branch.dtype)
