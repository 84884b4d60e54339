"""Crops of several sizes through one backbone (SwAV, 2006.09882, section 3.2)."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.objectives.parts.views import fold, unfold

Array = jax.Array


def multicrop(backbone: Callable[[Array], Any], groups: Sequence[Array]) -> Array:
    """Compute the "pooled" features of every crop, (B, V, D) in the crops' order.

    The backbone runs once per sequence of groups of one size, so batch norm sees the crops of one
    size together. A head that is then applied to the result sees all of them.

    Args:
      backbone: `Bound.backbone` (`parts.networks`).
      groups: groups of crops as in `batch["views"]`, (B, n, H, W, C) each, V = sum(n).
    """
    pooled = []
    for _, run in itertools.groupby(groups, key=lambda group: group.shape[2:4]):
        images = fold(*(same := list(run)))
        features = backbone(images)
        pooled.append(unfold(features.pooled, sum(group.shape[1] for group in same)))
    return jnp.concatenate(pooled, axis=1)


def images_and_patches(
    backbone: Callable[..., Any], large: Sequence[Array], masks: Array | None = None
) -> tuple[Array, Array]:
    """Compute the features of the large crops (B, G, D) and of their patches (B, G, N, D).

    Args:
      backbone: `Bound.backbone`.
      large: groups of crops of one size, G in all.
      masks: (B, G, rows, columns) bool, patches to hide.
    """
    features = backbone(fold(*large), mask=None if masks is None else fold(masks))
    count = sum(group.shape[1] for group in large)
    return unfold(features.pooled, count), unfold(features.patches, count)


def with_keys(backbone: Callable[..., Any], keys: Array) -> Callable[..., Any]:
    """Return the backbone as a function of folded crops (B * n, H, W, C) that gives each crop a
    random key, for stochastic depth.

    Args:
      backbone: `Bound.backbone`.
      keys: (B,), one per example.
    """

    def apply(crops: Array, **options: Any) -> Any:
        count = len(crops) // len(keys)
        each = jax.vmap(lambda key: jax.random.split(key, count))(keys)
        return backbone(crops, keys=fold(each), **options)

    return apply


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
