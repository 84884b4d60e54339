"""Masks of the patches of several crops (iBOT, DINOv2), and the hidden patches of a batch in one
array.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from ssl_jax.augment.masks import (
    block_mask,
    ibot_mask,
    mask_ids,
    most_hidden,
    stratified_targets,
    take,
)
from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.sharding import split_rows

Array = jax.Array
Ratios = tuple[float, float]

LEAST_BLOCK = 4  # patches of a block of a mask
MULTIPLE = 16  # of rows per group, so that more devices than groups can split them


def random_masks(
    keys: Array,
    crops: int,
    side: int,
    ratios: tuple[float, ...],
    spreads: tuple[float, ...],
    blocks: bool,
) -> Array:
    """Draw masks (B, crops, side, side), bool, of the patches to hide with keys (B,): each crop by
    itself, see `augment.masks.ibot_mask`.
    """
    each = jax.vmap(lambda key: jax.random.split(key, crops))(keys)
    mask = lambda key: ibot_mask(key, (side, side), ratios, spreads, blocks)  # noqa: E731
    return jax.vmap(jax.vmap(mask))(each)


def check_spreads(ratios: Sequence[float], spreads: Sequence[float]) -> None:
    """Check the shares of patches to hide of `random_masks`.

    Raises:
      UserError: no share, another number of spreads, or a spread that leaves [0, 1].
    """
    if len(ratios) != len(spreads):
        raise UserError(
            f"objective: {len(ratios)} mask_ratios with {len(spreads)} mask_spreads; set one "
            "spread per ratio"
        )
    if not ratios:
        raise UserError("objective.mask_ratios: expected at least one share, got none")
    for ratio, spread in zip(ratios, spreads, strict=True):
        if spread > min(ratio, 1 - ratio):
            raise UserError(
                f"objective.mask_spreads: {ratio} -+ {spread} leaves [0, 1]; use a spread of at "
                f"most {min(ratio, 1 - ratio):g}"
            )


def stratified_masks(
    keys: Array, crops: int, side: int, groups: int, share: float, ratios: Ratios
) -> Array:
    """Draw masks (B, crops, side, side), bool, of the patches to hide with keys (B,). A `share` of
    the crops of each of `groups` groups of images has a mask, and the shares of their patches are
    spread over the range `ratios`.
    """
    each = jax.vmap(lambda key: jax.random.split(key, crops))(keys)
    draw = lambda key: jax.random.uniform(rng.named(key, "target"), (2,))  # noqa: E731
    order, draws = jnp.moveaxis(jax.vmap(jax.vmap(draw))(each), -1, 0).reshape(2, groups, -1)
    places = jnp.argsort(jnp.argsort(order))
    targets = stratified_targets(places, draws, side**2, share, ratios)

    def mask(key: Array, target: Array) -> Array:
        return block_mask(key, (side, side), target, LEAST_BLOCK, side**2 / 2)

    return jax.vmap(jax.vmap(mask))(each, targets.reshape(each.shape))


def check_most(side: int, ratios: Ratios) -> None:
    """Raise `UserError` if `stratified_masks` cannot hide a patch."""
    if int(side**2 * ratios[1]) < 1:
        raise UserError(
            f"objective.mask_ratios: {ratios} hide none of {side**2} patches; use larger shares or "
            "smaller patches"
        )


def gather_hidden(
    masks: Array, groups: int, share: float, ratios: Ratios
) -> tuple[Callable[[Array], Array], Array]:
    """Return a function that gathers the hidden patches (groups * M, D) from all (B, crops, N, D),
    and the weight (groups * M,) of each in the loss: one over the number that its crop hides and
    the number of crops. M is the most that a group can hide, rounded up to a multiple of 16; the
    padding repeats them with weight 0.

    Args:
      masks: (B, crops, rows, columns), see `stratified_masks`.
    """
    patches = masks.shape[-2] * masks.shape[-1]
    flat = masks.reshape(groups, -1, patches)
    most = most_hidden(flat.shape[1], patches, share, ratios)
    most = min(math.ceil(most / MULTIPLE) * MULTIPLE, flat[0].size)
    ids, valid = mask_ids(flat, most)
    again = jnp.arange(most) % jnp.maximum(valid.sum(-1, keepdims=True), 1)
    ids = jnp.take_along_axis(ids, again, axis=-1)
    weights = flat / jnp.maximum(flat.sum(-1, keepdims=True), 1) / (groups * flat.shape[1])
    weights = jnp.take_along_axis(weights.reshape(groups, -1), ids, axis=1)

    def gather(x: Array) -> Array:
        rows = take(x.reshape(groups, -1, x.shape[-1]), ids)
        # Groups that the devices do not divide would leave all rows, and their logits, on each.
        return split_rows(rows.reshape(-1, x.shape[-1]))

    return gather, split_rows((weights * valid).ravel())
