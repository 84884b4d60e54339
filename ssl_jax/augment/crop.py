"""Views cropped on the device from a data set in device memory (`data.cache="device"`)."""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.inputs import Inputs, Sampling, Size, sides

Array = jax.Array
Interpolation = Literal["bilinear", "bicubic"]

_A = -0.75  # parameter of the bicubic kernel, as in OpenCV


def take_views(inputs: Inputs, sets: tuple[Array, ...], batch: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the `boxes` of a batch by `views`, as the host would have made them.

    Views of whole images are bit-identical to the host's; crops differ by at most one grey level,
    because OpenCV computes in fixed point.

    Args:
      sets: for each view (N, H, W, C) uint8, already resized if the view shows whole images.
      batch: `index` (B,) int32; `boxes`, one (B, count, 4) int32 per cropped view; other entries,
        such as `placement`, are passed on.
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


def corner_boxes(height: int, width: int, cross: float) -> np.ndarray:
    """Return the overlapping corners of an image, (4, 4) int32: top, left, height, width of the top
    left, bottom left, top right and bottom right one. Each has 0.5 + `cross` of either side.

    The order is that of Jigsaw clustering (2104.00323, JigClu/loader.py), which takes an image's
    width for its height.
    """
    middle, reach = np.array([height // 2, width // 2]), cross * np.array([height, width])
    low, high = np.rint(middle - reach), np.rint(middle + reach)
    boxes = [
        (top, left, (height - top) if bottom else high[0], (width - left) if right else high[1])
        for right, left in ((False, 0), (True, low[1]))
        for bottom, top in ((False, 0), (True, low[0]))
    ]
    return np.array(boxes, np.int32)


def crop_resize(
    image: Array, box: Array, size: Size, interpolation: Interpolation = "bilinear"
) -> Array:
    """Crop a box of an (H, W, C) uint8 image and resize it to `size`, (h, w, C) uint8, as
    `data.decode.crop_resize` does.

    Computed as two matrix products, one per side, which are fast on every kind of device and work
    for any interpolation and any scale.

    Args:
      box: (4,) int32: top, left, height, width.
    """
    height, width, channels = image.shape
    top, left, rows, columns = box
    tall, wide = sides(size)
    # Number of interpolated values to average; if one side needs two, both take two.
    down, across = (
        jnp.maximum(1, -(-length // (2 * side)))
        for length, side in zip((rows, columns), (tall, wide), strict=True)
    )
    down, across = (
        jnp.maximum(down, jnp.minimum(2, across)),
        jnp.maximum(across, jnp.minimum(2, down)),
    )
    two = max(height / tall, width / wide) > 2  # a box may need two samples on both sides
    vertical = _weights(top, rows, height, tall, down, two, interpolation)
    horizontal = _weights(left, columns, width, wide, across, two, interpolation)
    high = jax.lax.Precision.HIGHEST
    flat = image.astype(jnp.float32).reshape(height, width * channels)
    rows_done = jnp.matmul(vertical, flat, precision=high).reshape(tall, width, channels)
    out = jnp.einsum("jw,iwc->ijc", horizontal, rows_done, precision=high)
    return jnp.clip(jnp.round(out), 0, 255).astype(jnp.uint8)


def random_box(
    key: Array,
    rows: Array | int,
    columns: Array | int,
    area: tuple[float, float],
    kind: Sampling = "torchvision",
) -> Array:
    """Draw a box of an image of rows x columns pixels, (4,) int32: top, left, height, width.

    As torchvision's `RandomResizedCrop`: the first of ten draws of a share of the area (uniform in
    `area`) and an aspect ratio (log-uniform from 3/4 to 4/3) that fits, else the whole image.
    "one_draw" clips the first draw to the image, "same_aspect" keeps the image's aspect ratio, as
    in `data.decode.random_box`.
    """
    share_key, ratio_key, place_key = jax.random.split(key, 3)
    sides = jnp.array([rows, columns], jnp.float32)
    low, high = area
    size = jax.random.uniform(share_key, (10, 1), minval=low, maxval=high) * jnp.prod(sides)
    stretch = jax.random.uniform(ratio_key, (10, 1), minval=-1.0) * np.log(4 / 3).astype(np.float32)
    # (height, width) of every draw.
    draws = jnp.round(jnp.sqrt(size * jnp.exp(stretch * np.array([-1.0, 1.0], np.float32))))
    if kind == "same_aspect":
        draws = jnp.round(jnp.sqrt(size / jnp.prod(sides)) * sides)
    if kind == "one_draw":
        draws = jnp.clip(draws, 1, sides)
    fits = jnp.all((draws >= 1) & (draws <= sides), axis=1)
    box = jnp.where(jnp.any(fits), draws[jnp.argmax(fits)], sides)
    corner = jnp.floor(jax.random.uniform(place_key, (2,)) * (sides - box + 1))
    return jnp.concatenate([jnp.minimum(corner, sides - box), box]).astype(jnp.int32)


def _weights(
    start: Array,
    side: Array,
    length: int,
    size: int,
    samples: Array,
    two: bool,
    interpolation: Interpolation,
) -> Array:
    """Return (size, length): the weight of each of `length` pixels in each of `size` pixels of the
    resized crop.

    The crop spans `side` pixels from `start`. Each pixel of the result is the mean of `samples`
    values, interpolated at even distances; edge pixels of the crop are repeated outside of it.
    With `two`, there may be two samples because the other side has two.
    """
    most = max(2 if two else 1, -(-length // (2 * size)))
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
    """Evaluate Keys' kernel at a distance in [0, 2]."""
    near = ((_A + 2) * distance - (_A + 3)) * distance**2 + 1
    far = ((_A * distance - 5 * _A) * distance + 8 * _A) * distance - 4 * _A
    return jnp.where(distance <= 1, near, far)
