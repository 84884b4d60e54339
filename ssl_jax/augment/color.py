"""Colour spaces, and operations that hide chromatic aberration. Images are planes, (3, H, W)
float32.
"""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

# IEC 61966-2-1: linear sRGB to XYZ, and the D65 white of the 2 degree observer.
XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
WHITE = (0.95047, 1.0, 1.08883)

# Projects the green - magenta direction, (-1, 2, -1), out of a colour (Doersch et al. 2015).
PROJECTION = np.eye(3) - np.outer((-1, 2, -1), (-1, 2, -1)) / 6


def srgb_to_lab(image: Array) -> Array:
    """Convert sRGB in [0, 1] to CIE L*a*b* (D65): L in [0, 100], a and b within about [-110, 110].

    Colorization (Zhang et al. 2016) predicts a and b from L.
    """
    linear = jnp.where(
        image <= 0.04045, image / 12.92, ((jnp.maximum(image, 0.0) + 0.055) / 1.055) ** 2.4
    )
    xyz = _mix(np.array(XYZ) / np.array(WHITE)[:, None], linear)
    root = jnp.where(xyz > 0.008856, jnp.cbrt(xyz), 7.787 * xyz + 16.0 / 116.0)
    x, y, z = root
    return jnp.stack([116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)])


def project_colors(image: Array) -> Array:
    """Remove the green - magenta part of every colour; greys stay (Doersch et al. 2015)."""
    return _mix(PROJECTION, image)


def drop_channels(image: Array, channel: Array, noise: Array) -> Array:
    """Replace all channels of (C, H, W) but `channel` by `noise`, which broadcasts to the image.

    Colour dropping of Doersch et al. 2015: their code keeps `image - mean` and has noise in
    [-1/2, 1/2); their text has Gaussian noise of a hundredth of the remaining channel's deviation.
    """
    channels = jnp.arange(image.shape[0])[:, None, None]
    return jnp.where(channels == channel, image, noise)


def _mix(matrix: np.ndarray, image: Array) -> Array:
    # Written out: a product with a 3 x 3 matrix would round its inputs to bfloat16 on a TPU.
    red, green, blue = image
    return jnp.stack([float(r) * red + float(g) * green + float(b) * blue for r, g, b in matrix])
