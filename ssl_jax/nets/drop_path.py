"""Stochastic depth (Huang et al. 2016, arXiv:1603.09382): randomly dropped residual branches."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.sharding import split_rows
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
    keys: Array | None,
    rate: float,
    depth: int,
    branches: int = 1,
    uniform: bool = False,
    groups: int = 0,
) -> Array | None:
    """Draw the factor of each branch of each block, (depth, branches, B): 0, or 1 / (1 - rate of
    the block); None for a rate of 0. With `groups`, draw instead which rows each branch computes:
    (depth, branches, groups, K) int, of every group of n = B / groups rows K = n (1 - rate).

    Args:
      keys: (B,), one per example: its draws do not depend on its place in the batch.
      rate, uniform: the rate of the last block, and whether it is that of all blocks. `groups`
        takes it as that of all blocks.

    Raises:
      UserError: no keys, or groups that do not divide the rows.
    """
    if rate == 0:
        return None
    if keys is None:
        raise UserError("backbone.drop_path: this method draws no stochastic depth; set it to 0")
    draws = jax.vmap(lambda key: jax.random.uniform(key, (depth, branches)))(keys)
    if groups:
        if len(keys) % groups:
            raise UserError(
                f"backbone.drop_path_groups: {groups} groups do not divide {len(keys)} crops; use "
                "a divisor of the batch"
            )
        rows = jnp.moveaxis(draws, 0, -1).reshape(depth, branches, groups, -1)
        count = max(int(rows.shape[-1] * (1 - rate)), 1)
        return jnp.sort(jnp.argsort(rows)[..., :count])
    keep_probability = 1 - (np.full(depth, rate) if uniform else rates(rate, depth))[:, None]
    return jnp.moveaxis(jnp.where(draws < keep_probability, 1 / keep_probability, 0.0), 0, -1)


def residual(x: Array, branch: Callable[[Array], Array], draws: Array | None = None) -> Array:
    """Add branch(x) to x (B, ...).

    Args:
      branch: maps any number of rows to as many.
      draws: factors (B,) of the branch; or the rows (groups, K) of each group of n = B / groups
        rows that the branch computes, whose results are multiplied by n / K (DINOv2's form of
        stochastic depth, which saves the work of the others); or None.
    """
    if draws is None:
        return x + branch(x)
    if draws.ndim == 1:
        return x + drop(branch(x), draws)
    groups, count = draws.shape
    grouped = x.reshape(groups, -1, *x.shape[1:])
    rows = jax.vmap(lambda x, rows: x[rows])(grouped, draws)
    added = branch(split_rows(rows.reshape(-1, *x.shape[1:]))) * (grouped.shape[1] / count)
    return jax.vmap(lambda x, rows, y: x.at[rows].add(y))(
        grouped, draws, added.reshape(rows.shape)
    ).reshape(x.shape)


def drop(branch: Array, factor: Array | None) -> Array:
    """Multiply `branch` (B, ...) by `factor` (B,); return it unchanged without one."""
    if factor is None:
        return branch
    return branch * factor.reshape(-1, *[1] * (branch.ndim - 1)).astype(branch.dtype)
