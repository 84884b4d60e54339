"""Views cut on the device, out of a set of images that lies there whole (`data.cache="device"`)."""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.inputs import Inputs

Array = jax.Array
Interpolation = Literal["bilinear", "bicubic"]

_A = -0.75  # of the bicubic kernel, as OpenCV has it


def take_views(inputs: Inputs, sets: tuple[Array, ...], batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch as the host would have made it, `boxes` replaced by `views`.

    Views of whole images are the same to the bit, crops to one grey level: OpenCV computes in fixed
    point.

    Args:
      sets: for each view (N, H, W, C) uint8; already resized where the view is of whole images.
      batch: `index` (B,) int32; `boxes`, one (B, count, 4) int32 for each view that is cropped; all
        else is passed on.
    """
    boxes = iter(batch["boxes"])
    views = []
    for view, images in zip(inputs.views, sets, strict=True):
        chosen = images[batch["index"]]
        if view.whole:
            shape = (len(chosen), view.count, *chosen.shape[1:])
            views.append(jnp.broadcast_to(chosen[:, None], shape))
        else:

            def cut(image: Array, box: Array, view=view) -> Array:
                return crop_resize(image, box, view.size, view.interpolation)

            views.append(jax.vmap(jax.vmap(cut, (None, 0)))(chosen, next(boxes)))
    rest = {name: value for name, value in batch.items() if name != "boxes"}
    return rest | {"views": tuple(views)}


def crop_resize(
    image: Array, box: Array, size: int, interpolation: Interpolation = "bilinear"
) -> Array:
    """The box of an (H, W, C) uint8 image as (size, size, C) uint8: `data.decode.crop_resize`.

    Two products with a matrix of weights a side, which every kind of device does well and which
    holds for any interpolation and any shrinking.

    Args:
      box: (4,) int32: top, left, height, width.
    """
    height, width, channels = image.shape
    top, left, rows, columns = box
    # How many interpolated values are averaged; both sides take two where one must.
    down, across = (jnp.maximum(1, -(-side // (2 * size))) for side in (rows, columns))
    down, across = (
        jnp.maximum(down, jnp.minimum(2, across)),
        jnp.maximum(across, jnp.minimum(2, down)),
    )
    vertical = _weights(top, rows, height, size, down, max(height, width), interpolation)
    horizontal = _weights(left, columns, width, size, across, max(height, width), interpolation)
    high = jax.lax.Precision.HIGHEST
    flat = image.astype(jnp.float32).reshape(height, width * channels)
    tall = jnp.matmul(vertical, flat, precision=high).reshape(size, width, channels)
    out = jnp.einsum("jw,iwc->ijc", horizontal, tall, precision=high)
    return jnp.clip(jnp.round(out), 0, 255).astype(jnp.uint8)


def _weights(
    start: Array,
    side: Array,
    length: int,
    size: int,
    samples: Array,
    longest: int,
    interpolation: Interpolation,
) -> Array:
    """(size, length): what each of `length` pixels gives to each of `size` pixels of the crop.

    The crop is `side` pixels from `start`; each of its new pixels is the mean of `samples` values,
    interpolated at even distances, the edge pixels of the crop being repeated outside of it.
    """
    most = max(1, min(2, -(-longest // (2 * size))), -(-length // (2 * size)))
    fine = jnp.arange(size)[:, None] * samples + jnp.arange(most)
    scale = side.astype(jnp.float32) / (size * samples).astype(jnp.float32)
    at = (fine.astype(jnp.float32) + 0.5) * scale - 0.5
    first = jnp.floor(at)
    part = at - first
    if interpolation == "bilinear":
        taps = [1 - part, part]
    else:
        linear = [jnp.zeros_like(part), 1 - part, part, jnp.zeros_like(part)]
        cubic = [_cubic(part + 1), _cubic(part), _cubic(1 - part), _cubic(2 - part)]
        taps = [jnp.where(samples > 1, a, b) for a, b in zip(linear, cubic, strict=True)]
        first = first - 1
    counted = jnp.where(np.arange(most) < samples, 1.0 / samples.astype(jnp.float32), 0.0)
    weights = jnp.zeros((size, length), jnp.float32)
    for k, tap in enumerate(taps):
        pixel = start + jnp.clip(first.astype(jnp.int32) + k, 0, side - 1)
        here = pixel[..., None] == np.arange(length, dtype=np.int32)
        weights += jnp.where(here, (tap * counted)[..., None], 0.0).sum(1)
    return weights


def _cubic(distance: Array) -> Array:
    """Keys' kernel at a distance in [0, 2]."""
    near = ((_A + 2) * distance - (_A + 3)) * distance**2 + 1
    far = ((_A * distance - 5 * _A) * distance + 8 * _A) * distance - 4 * _A
    return jnp.where(distance <= 1, near, far)
