"""Images in CIE L*a*b* for methods that predict some of its channels from others."""

import jax

from ssl_jax.augment.recipes import recipe, statistics
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.nets.features import Features

Array = jax.Array


def check(view: View, channels: int) -> None:
    """Check that the images of a view are in L*a*b*.

    Raises:
      UserError: data of another number of channels than 3, or a chain of another space.
    """
    if channels != 3:
        raise UserError(
            f"objective: this method predicts colours, and the data have {channels} channel(s); "
            "use colour images"
        )
    if recipe(view.recipe).space != "lab":
        raise UserError(
            f"objective.view.recipe: this method needs a chain whose space is 'lab', and that of "
            f"{view.recipe!r} is {recipe(view.recipe).space!r}; use 'lab'"
        )


def units(view: View, images: Array) -> Array:
    """Undo the normalisation of a view (..., 3): L in [0, 100], a and b within about 110 of 0."""
    mean, std = statistics(recipe(view.recipe), 3)
    return images * std + mean


def normalize(view: View, lab: Array) -> Array:
    """Invert `units`."""
    mean, std = statistics(recipe(view.recipe), 3)
    return (lab - mean) / std


def map_width(shapes: Features) -> int:
    """Return the number of channels of a backbone's map.

    Raises:
      UserError: it has none.
    """
    if shapes.map is None:
        raise UserError("objective: this backbone has no map; use a ResNet, ViT or Swin")
    return shapes.map.shape[-1]
