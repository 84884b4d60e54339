"""Hypercolumns: what all layers of a network say about a position (Hariharan et al. 2015)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

Array = jax.Array


def sample(maps: Array, positions: Array, scale: tuple[float, float]) -> Array:
    """Interpolate maps (B, h, w, C) at positions of the image, bilinearly: (B, P, C).

    Position p of the image is `p / scale` in the map, as in gustavla/autocolorize
    (sparse_hypercolumn_extractor_layer.cpp); beyond the last row or column it is in that.

    Args:
      positions: (B, P, 2) of (row, column) in pixels, not negative.
      scale: sides of a map's pixel in the image.
    """
    last = jnp.array(maps.shape[1:3], jnp.int32) - 1
    # Not quite to the last pixel, as released, so that there is a next one.
    at = jnp.clip(positions / jnp.array(scale, jnp.float32), 0, jnp.maximum(last - 1e-4, 0))
    first = jnp.floor(at).astype(jnp.int32)
    part = (at - first).astype(maps.dtype)

    def corner(down: int, across: int) -> Array:
        y, x = (jnp.minimum(first + jnp.array([down, across]), last)[..., i] for i in range(2))
        weight = (part if down else 1 - part)[..., 0] * (part if across else 1 - part)[..., 1]
        return jax.vmap(lambda each, y, x: each[y, x])(maps, y, x) * weight[..., None]

    return corner(0, 0) + corner(0, 1) + corner(1, 0) + corner(1, 1)


def hypercolumns(images: Array, maps: Sequence[Array], positions: Array) -> Array:
    """Concatenate what images (B, H, W, C) and maps of them (B, h_i, w_i, C_i) say about positions:
    (B, P, C + sum of C_i).

    Args:
      positions: (B, P, 2) of (row, column) in pixels of the images.
    """
    height, width = images.shape[1:3]
    columns = [
        sample(each, positions, (height / each.shape[1], width / each.shape[2]))
        for each in (images, *maps)
    ]
    return jnp.concatenate(columns, axis=-1)
