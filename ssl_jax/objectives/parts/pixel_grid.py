"""Places of a feature map's pixels in the image, from the placement of its view
(`core.inputs.Inputs`): which pixels of two views show the same part of the image.
"""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Grid = tuple[int, int]  # rows and columns of a feature map


def centres(placement: Array, grid: Grid) -> Array:
    """Compute the centres (..., h w, 2) of a map's pixels, row by row, in the image.

    Args:
      placement: (..., 2, 3), of the view that the map was computed from.
      grid: rows h and columns w of the map.

    Returns:
      positions (y, x) in units of the image's sides.
    """
    pixels = np.indices(grid).reshape(2, -1).T  # (h w, 2)
    places = jnp.asarray((pixels + 0.5) / np.array(grid), placement.dtype)  # in the view
    # Sums of products, as a matrix product would be rounded to bfloat16 on accelerators.
    linear, shift = placement[..., None, :, :2], placement[..., None, :, 2]
    return (linear * places[:, None, :]).sum(-1) + shift


def diagonal(placement: Array, grid: Grid) -> Array:
    """Compute the diagonal (...) of a map's pixel in the image, in units of the image's sides.

    It is the root of the sum of the squared sides. A mirrored or turned pixel has the same one.
    """
    sides = placement[..., :2] / jnp.asarray(grid, placement.dtype)
    return jnp.sqrt(jnp.sum(jnp.square(sides), (-2, -1)))


def distances(first: Array, second: Array) -> Array:
    """Compute the distance of each of the places (..., n, 2) to each of (..., m, 2): (..., n, m).

    There is no gradient at equal places.
    """
    return jnp.sqrt(jnp.sum(jnp.square(first[..., :, None, :] - second[..., None, :, :]), -1))


def relative_distances(first: Array, second: Array, grid: Grid) -> Array:
    """Compute the distances (..., h w, h w) of the pixels of two views' maps, divided by the larger
    diagonal of a pixel (PixPro, 2011.10043, section 3.1; `regression_loss` of the release).

    Args:
      first, second: placements (..., 2, 3) of two views of the same image.
      grid: rows and columns of both maps.
    """
    largest = jnp.maximum(diagonal(first, grid), diagonal(second, grid))
    return distances(centres(first, grid), centres(second, grid)) / largest[..., None, None]
