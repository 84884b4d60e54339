"""Colour spaces, and operations that hide chromatic aberration. Images are planes, (3, H, W)
float32, unless they
are called images (..., H, W, C).
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment.photometric import from_hue, hue_sixths, value_and_spread
from ssl_jax.core.chain import Space
from ssl_jax.core.errors import UserError

Array = jax.Array

# IEC 61966-2-1: linear sRGB to XYZ, and the D65 white of the 2 degree observer.
XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
WHITE = (0.95047, 1.0, 1.08883)

# ITU-R BT.601, studio range: Y' in [16, 235], Cb and Cr in [16, 240], for R'G'B' in [0, 1].
YCBCR = ((65.481, 128.553, 24.966), (-37.797, -74.203, 112.0), (112.0, -93.786, -18.214))
YCBCR_OFFSET = (16.0, 128.0, 128.0)

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


def lab_to_srgb(lab: Array) -> Array:
    """Invert `srgb_to_lab`; colours outside of sRGB are below 0 or above 1."""
    y = (lab[0] + 16.0) / 116.0
    root = jnp.stack([y + lab[1] / 500.0, y, y - lab[2] / 200.0])
    xyz = jnp.where(root > 0.2068966, root**3, (root - 16.0 / 116.0) / 7.787)
    linear = _mix(np.linalg.inv(np.array(XYZ) / np.array(WHITE)[:, None]), xyz)
    curve = 1.055 * jnp.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    return jnp.where(linear > 0.0031308, curve, 12.92 * linear)


def srgb_to_ycbcr(image: Array) -> Array:
    """Convert sRGB in [0, 1] to Y'CbCr (BT.601) of the studio range, 16 to 235 and 16 to 240."""
    return _mix(np.array(YCBCR), image) + _offset(image)


def ycbcr_to_srgb(image: Array) -> Array:
    """Invert `srgb_to_ycbcr`."""
    return _mix(np.linalg.inv(np.array(YCBCR)), image - _offset(image))


def srgb_to_hue_chroma(image: Array) -> Array:
    """Convert sRGB in [0, 1] to (grey, hue, chroma): the mean of R, G and B; the hue of HSV as a
    share of the circle, 0 for greys; the largest of R, G and B less the smallest.

    Larsson et al. 2016 predict hue and chroma from the grey image.
    """
    _, chroma = value_and_spread(image)
    hue = hue_sixths(image, chroma) / 6.0
    return jnp.stack([image.mean(0), hue - jnp.floor(hue), chroma])


def hue_chroma_to_srgb(image: Array) -> Array:
    """Invert `srgb_to_hue_chroma`; colours outside of sRGB are below 0 or above 1."""
    grey, hue, chroma = image
    dark = jnp.stack(from_hue(6.0 * hue, jnp.zeros(()), jnp.zeros(()), chroma))
    return dark - dark.mean(0) + grey


def from_rgb(space: Space, images: Array) -> Array:
    """Convert images (..., H, W, C) from sRGB in [0, 1] to a colour space: "rgb" leaves them as
    they are, "lab" is `srgb_to_lab`, "ycbcr" `srgb_to_ycbcr`, "hue_chroma" `srgb_to_hue_chroma`.

    Raises:
      UserError: another space than "rgb" for images without colour.
    """
    conversions = {"lab": srgb_to_lab, "ycbcr": srgb_to_ycbcr, "hue_chroma": srgb_to_hue_chroma}
    return _convert(conversions, space, images)


def to_rgb(space: Space, images: Array) -> Array:
    """Invert `from_rgb`."""
    conversions = {"lab": lab_to_srgb, "ycbcr": ycbcr_to_srgb, "hue_chroma": hue_chroma_to_srgb}
    return _convert(conversions, space, images)


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


def drop_random_channels(key: Array, image: Array) -> Array:
    """Keep one random channel of (3, H, W), less its mean, and replace the others by noise in
    [-1/2, 1/2); see `drop_channels`.
    """
    channel_key, noise_key = jax.random.split(key)
    channel = jax.random.randint(channel_key, (), 0, 3, jnp.int32)
    noise = jax.random.uniform(noise_key, image.shape, image.dtype, -0.5, 0.5)
    return drop_channels(image - image.mean((1, 2), keepdims=True), channel, noise)


def _convert(
    conversions: Mapping[str, Callable[[Array], Array]], space: Space, images: Array
) -> Array:
    if space == "rgb":
        return images
    if images.shape[-1] != 3:
        raise UserError(
            f"view.recipe: the colour space {space!r} needs colour images, and these have "
            f"{images.shape[-1]} channel(s); use data with colours"
        )
    return jnp.moveaxis(conversions[space](jnp.moveaxis(images, -1, 0)), 0, -1)


def _offset(image: Array) -> np.ndarray:
    return np.array(YCBCR_OFFSET, np.float32).reshape(3, *[1] * (image.ndim - 1))


def _mix(matrix: np.ndarray, image: Array) -> Array:
    # Written out: a product with a 3 x 3 matrix would round its inputs to bfloat16 on a TPU.
    red, green, blue = image
    return jnp.stack([float(r) * red + float(g) * green + float(b) * blue for r, g, b in matrix])
