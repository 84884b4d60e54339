"""Pictures of two crops of an image whose pixels are matched by their places."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment import recipes
from ssl_jax.augment.crop import crop_resize, random_box
from ssl_jax.core import rng
from ssl_jax.core.inputs import Inputs, View
from ssl_jax.objectives.base import Picture
from ssl_jax.objectives.parts.pictures import ROWS
from ssl_jax.objectives.parts.pixel_grid import Grid

Array = jax.Array

COLUMNS = ("first view", "its pixels with a match", "their matches", "second view")
CAPTION = (
    "Two crops of each image, augmented as in training. In between, each pixel of the first view's "
    "feature map ({} x {}) that shows the same part of the image as a pixel of the second one has "
    "a colour (in grey images: is not dark); its match in the second view has the same one."
)


def views(inputs: Inputs, images: Array, key: Array) -> dict[str, Any]:
    """Crop and augment the first whole images (B, H, W, C), normalised as the first view: a batch
    with `views` and their `placement`, see `Inputs`.
    """
    levels = jnp.round(recipes.unit(inputs.views[0], images[:ROWS]) * 255).astype(jnp.uint8)
    index = jnp.arange(len(levels), dtype=jnp.int32)
    height, width = images.shape[1:3]
    sides = np.array([height, width])

    def crop(view: View, key: Array, image: Array) -> tuple[Array, Array]:
        box = jnp.array([0, 0, *sides], jnp.int32)
        if not view.whole:
            box = random_box(key, height, width, view.area)
        scale, corner = box[2:] / sides, box[:2] / sides
        placement = jnp.concatenate([jnp.diag(scale), corner[:, None]], axis=1)
        return crop_resize(image, box, view.size, view.interpolation)[None], placement[None]

    crops = [
        jax.vmap(lambda k, x, view=view: crop(view, k, x))(
            rng.per_example(rng.named(key, f"crop{g}"), index), levels
        )
        for g, view in enumerate(inputs.views)
    ]
    cut, placements = zip(*crops, strict=True)
    batch = {"views": cut, "placement": placements, "index": index}
    return recipes.augment(inputs, batch, rng.named(key, "chains"))


def matched(view: View, first: Array, second: Array, positives: Array, grid: Grid) -> Picture:
    """Show the matches of two views (B, H, W, C), normalised as `view`.

    Args:
      positives: (B, N, N) bool, the pairs of pixels of maps of N = rows x columns of the `grid`.
    """
    colours = jnp.asarray(_colours(grid), first.dtype)  # (N, 3)
    partner = jnp.argmax(positives, 1)  # (B, N), a pixel of the first view
    in_first, in_second = jnp.any(positives, 2), jnp.any(positives, 1)
    shown = (
        _tint(view, first, in_first, jnp.broadcast_to(colours, (*in_first.shape, 3)), grid),
        _tint(view, second, in_second, colours[partner], grid),
    )
    images = jnp.stack([first, *shown, second], axis=1)
    return Picture(images, CAPTION.format(*grid), COLUMNS)


def _tint(view: View, images: Array, match: Array, colours: Array, grid: Grid) -> Array:
    """Colour the pixels of a map that have a `match` (B, N), and darken the others."""
    rows, columns = grid
    _, height, width, channels = images.shape

    def enlarged(x: Array) -> Array:
        x = x.reshape(len(x), rows, columns, -1)
        y, z = (np.arange(n) * count // n for n, count in ((height, rows), (width, columns)))
        return x[:, y][:, :, z]

    plain = recipes.unit(view, images)
    bright = plain
    if channels == 3:
        bright = 0.4 * plain.mean(-1, keepdims=True) + 0.6 * enlarged(colours)
    return recipes.normalize(view, jnp.where(enlarged(match), bright, 0.25 * plain))


def _colours(grid: Grid) -> np.ndarray:
    """Return a colour (N, 3) in [0, 1] for each pixel: its row sets red, its column green, and blue
    alternates so that neighbours differ.
    """
    y, x = np.indices(grid).reshape(2, -1)
    return np.stack(
        [y / max(grid[0] - 1, 1), x / max(grid[1] - 1, 1), (x + y) % 2 * 0.6 + 0.2], axis=1
    )
