"""A pretrained network, never trained, whose features of each patch are the targets of a method."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax import nets
from ssl_jax.augment.recipes import recipe
from ssl_jax.core.chain import Transform
from ssl_jax.core.errors import UserError
from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net

Array = jax.Array

# CLIP's ViT-B/16, as a section `backbone`.
CLIP = {"name": "vit", "size": "base", "pre_norm": True, "norm_eps": 1e-5, "mlp": "quick_gelu"}


def teacher_net(options: Mapping[str, Any], channels: int) -> Net:
    """Build the network that `objective.teacher_backbone` describes.

    Raises:
      UserError: an unknown backbone or option.
    """
    section = dict(options)
    try:
        return nets.make_backbone(section.pop("name", nets.DEFAULT), channels, section)
    except UserError as e:
        raise UserError(f"objective.teacher_backbone: {e}") from None


def teacher_width(shapes: Features, grid: tuple[int, int]) -> int:
    """Return the width of a teacher's patches from the shapes of its outputs.

    Raises:
      UserError: it has no patches, or others than the student's `grid`.
    """
    if shapes.tokens is None or shapes.map is None:
        raise UserError("objective.teacher_backbone: a network without tokens; use a ViT or a Swin")
    rows, columns, width = shapes.map.shape
    if (rows, columns) != grid:
        raise UserError(
            f"objective.teacher_backbone: {rows} x {columns} patches per image, the student has "
            f"{grid[0]} x {grid[1]}; both must be equal"
        )
    return width


def renormalize(images: Array, own: str | Transform, other: str) -> Array:
    """Normalise images (B, H, W, C), which have the mean and deviation of the recipe `own`, with
    those of the recipe `other`; "" leaves them as they are.
    """
    if not other:
        return images
    mean, std, other_mean, other_std = (
        jnp.asarray(x, images.dtype)
        for chain in (recipe(own), recipe(other))
        for x in (chain.mean, chain.std)
    )
    return (images * std + mean - other_mean) / other_std
