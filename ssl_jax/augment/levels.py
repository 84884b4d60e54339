"""Operations on the 256 grey levels, as in Pillow's `ImageOps`.

Images are planes, (C, H, W) float32 in [0, 1], of any number of channels. Operations that count
levels round the image to them first.
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def posterize(image: Array, bits: Array | int) -> Array:
    """Keep only the `bits` (1 to 8) highest bits of every value."""
    step = jnp.exp2(8.0 - jnp.asarray(bits, jnp.float32))
    return jnp.floor(_levels(image) / step) * step / 255.0


def autocontrast(image: Array) -> Array:
    """Stretch each channel to a minimum of 0 and a maximum of 1; flat channels are unchanged.

    Pillow rounds the result down to a level; here it is not rounded.
    """
    low, high = image.min((1, 2), keepdims=True), image.max((1, 2), keepdims=True)
    flat = high <= low
    return jnp.where(flat, image, (image - low) / jnp.where(flat, 1.0, high - low))


def equalize(image: Array) -> Array:
    """Equalize the histogram of each channel by a monotone map.

    Level v becomes (pixels below v + step // 2) // step, where 255 steps hold all pixels but those
    of the highest level; a channel with fewer than 255 such pixels is unchanged.
    """
    return jax.vmap(_equalize)(_levels(image).astype(jnp.int32)) / 255.0


def histogram(levels: Array) -> Array:
    """Count the pixels of each level: (256,) int32 of `levels` (H, W) int32 in [0, 255].

    Accelerators compute a product of the one-hot upper and lower four bits, without a scatter; it
    is exact because counts are below 2^24. A CPU scatters (benchmarks/augment.py).
    """
    return jax.lax.platform_dependent(levels.reshape(-1), cpu=_scattered, default=_products)


def _scattered(flat: Array) -> Array:
    return jnp.zeros(256, jnp.int32).at[flat].add(1)


def _products(flat: Array) -> Array:
    high = jax.nn.one_hot(flat // 16, 16, dtype=jnp.bfloat16)
    low = jax.nn.one_hot(flat % 16, 16, dtype=jnp.bfloat16)
    counts = jax.lax.dot_general(
        high, low, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
    )
    return counts.reshape(256).astype(jnp.int32)


def _equalize(levels: Array) -> Array:
    counts = histogram(levels)
    below = jnp.cumsum(counts) - counts
    last = counts[255 - jnp.argmax(counts[::-1] > 0)]
    step = (levels.size - last) // 255
    table = jnp.clip((below + step // 2) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step > 0, table[levels], levels).astype(jnp.float32)


def _levels(image: Array) -> Array:
    return jnp.round(image * 255.0)
