"""Images in a colour space with the lightness apart, for methods that predict some channels from
others.
"""

import jax
import jax.numpy as jnp

from ssl_jax.augment.color import from_rgb
from ssl_jax.augment.recipes import recipe, statistics, unit
from ssl_jax.core.chain import Space
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net
from ssl_jax.nets.split import Split
from ssl_jax.objectives.base import Picture

Array = jax.Array


def check(view: View, channels: int, space: Space) -> None:
    """Check that the images of a view are in a colour space.

    Raises:
      UserError: data of another number of channels than 3, or a chain of another space.
    """
    if channels != 3:
        raise UserError(
            f"objective: this method predicts colours, and the data have {channels} channel(s); "
            "use colour images"
        )
    if recipe(view.recipe).space != space:
        raise UserError(
            f"objective.view.recipe: this method needs a chain whose space is {space!r}, and that "
            f"of {view.recipe!r} is {recipe(view.recipe).space!r}; use {space!r}"
        )


def units(view: View, images: Array) -> Array:
    """Undo the normalisation of a view (..., 3), whose first channel is the lightness: in "lab", L
    in [0, 100], a and b within about 110 of 0; in "hue_chroma" all in [0, 1].
    """
    mean, std = statistics(recipe(view.recipe), 3)
    return images * std + mean


def normalize(view: View, values: Array) -> Array:
    """Invert `units`."""
    mean, std = statistics(recipe(view.recipe), 3)
    return (values - mean) / std


def threefold_lightness(view: View, images: Array) -> Array:
    """Compute the lightness of images (..., C) that are normalised as in a view, in [-0.5, 0.5] and
    three times, (..., 3).
    """
    if recipe(view.recipe).space != "lab":
        images = from_rgb("lab", unit(view, images)) / 100 - 0.5
    return jnp.repeat(images[..., :1], 3, axis=-1)


def lightness_alone(backbone: Net) -> Net:
    """Build a copy of a backbone that reads the first channel of images of three."""
    return Split(backbone.like(channels=1).config, (1,)).net(3)


def map_width(shapes: Features) -> int:
    """Return the number of channels of a backbone's map.

    Raises:
      UserError: it has none.
    """
    if shapes.map is None:
        raise UserError("objective: this backbone has no map; use a ResNet, ViT or Swin")
    return shapes.map.shape[-1]


def colourised(view: View, images: Array, colours: Array, caption: str) -> Picture:
    """Show the lightness of images (B, H, W, 3), the same with predicted `colours`, and the images.

    Args:
      colours: (B, h, w, 2) in the units of the space, where grey has the colour 0.
    """
    lightness = units(view, images)[..., :1]
    colours = jax.image.resize(colours, (*images.shape[:3], 2), "bilinear")
    grey, coloured = (
        normalize(view, jnp.concatenate([lightness, part], axis=-1))
        for part in (jnp.zeros_like(colours), colours)
    )
    rows = jnp.stack([grey, coloured, images], axis=1)
    return Picture(rows, caption, ("input", "colourised", "image"))
