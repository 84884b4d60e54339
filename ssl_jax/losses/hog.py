"""Histograms of oriented gradients (HOG, Dalal and Triggs 2005), as targets of masked methods."""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float, l2_normalize
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes(1)
def hog(images: Array, cell: int, bins: int = 9) -> Array:
    """Describe each cell of each channel by a histogram of the gradient's orientation, of length 1.

    A pixel adds its gradient's magnitude to one bin: there is no interpolation between bins and no
    normalisation over blocks of cells (MaskFeat, 2112.09133, section 3.2; `HOGLayerC` of SlowFast's
    operators.py and `HOGLayer` of LocalMIM's models_mim.py). Opposite directions share a bin. No
    gradient reaches the images.

    Args:
      images: (B, H, W, C).
      cell: side of a cell in pixels.
      bins: number of orientations; bin b holds the angles from b to b + 1 times pi / bins of
        `sobel`.

    Returns:
      (B, H / cell, W / cell, C bins), in the order (channel, bin), float32 or wider; 0 for a flat
      cell.

    Raises:
      ValueError: the cells do not tile the image.
    """
    check_shapes("hog: images (B, H, W, C)", images)
    batch, height, width, channels = images.shape
    if cell < 1 or height % cell or width % cell:
        raise ValueError(f"hog: cells of {cell} px do not tile an image of {height} x {width}")
    # As in the releases. Moreover, the magnitude of 0 has no gradient.
    across, down = sobel(jax.lax.stop_gradient(as_float(images)))
    angle = jnp.arctan2(across, down) / jnp.pi
    orientation = jnp.floor(angle * bins).astype(jnp.int32) % bins
    votes = jax.nn.one_hot(orientation, bins, dtype=across.dtype)
    votes = votes * jnp.sqrt(jnp.square(across) + jnp.square(down))[..., None]
    rows, columns = height // cell, width // cell
    votes = votes.reshape(batch, rows, cell, columns, cell, channels, bins)
    histograms = l2_normalize(jnp.mean(votes, axis=(2, 4)), floor="norm")
    return histograms.reshape(batch, rows, columns, channels * bins)


@any_axes(...)
def sobel(images: Array) -> tuple[Array, Array]:
    """Return the Sobel gradients (B, H, W, C), negative: left minus right, above minus below.

    The border is reflected. The difference is taken first, then smoothed by 1-2-1, so that it is
    exactly 0 where the image is flat or mirrored, as at the border. Its angle is then exactly on
    the edge of a bin. The convolutions of the releases leave rounding errors there, which choose
    between two bins.
    """
    check_shapes("sobel: images (B, H, W, C)", images)
    x = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    across, down = x[:, :, :-2] - x[:, :, 2:], x[:, :-2] - x[:, 2:]
    across = across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]
    down = down[:, :, :-2] + 2 * down[:, :, 1:-1] + down[:, :, 2:]
    return across, down
