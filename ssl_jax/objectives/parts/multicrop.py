"""Crops of several sizes through one chain of networks (SwAV, 2006.09882, section 3.2)."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.objectives.parts.branch import Branch
from ssl_jax.objectives.parts.views import fold, unfold

Array = jax.Array
Tree = Any


def apply_views(
    branch: Branch, params: Tree, stats: Tree, groups: Sequence[Array], *, train: bool = True
) -> tuple[dict[str, Array], Tree]:
    """Return the outputs for every crop by network, (B, V, D) in the crops' order, and the new
    statistics.

    The backbone runs once per sequence of groups of one size, and the heads once over all crops, so
    batch norm sees the crops of one size together, and in the heads all of them.

    Args:
      branch: the networks.
      params, stats: parameters and statistics of the networks.
      groups: groups of crops as in `batch["views"]`, (B, n, H, W, C) each, V = sum(n).
      train: whether batch norm uses and updates the batch's statistics.

    Returns:
      The backbone's entry is its `pooled` features.
    """
    (name, backbone), pooled, stats = branch.nets[0], [], dict(stats)
    for _, run in itertools.groupby(groups, key=lambda group: group.shape[2:4]):
        images = fold(*(same := list(run)))
        features, stats[name] = backbone.apply(
            params[name], stats[name], images, train=train, microbatches=branch.microbatches
        )
        pooled.append(unfold(features.pooled, sum(group.shape[1] for group in same)))
    out = {name: jnp.concatenate(pooled, axis=1)}
    x = fold(out[name])
    for head, net in branch.nets[1:]:
        x, stats[head] = net.apply(params[head], stats[head], x, train=train)
        out[head] = unfold(x, out[name].shape[1])
    return out, stats


def leading_groups(views: Sequence[View], crops: int) -> int:
    """Return how many of the view groups hold the first `crops` crops, the large or "global" ones.

    Raises:
      UserError: the boundary is inside a group, or there is no second crop to compare with.
    """
    ends = list(itertools.accumulate(view.count for view in views))
    if crops not in ends or ends[-1] < 2:
        raise UserError(
            f"objective.views: groups of {[view.count for view in views]} crops; the first {crops} "
            "must fill whole groups, and there must be two or more crops"
        )
    return ends.index(crops) + 1
