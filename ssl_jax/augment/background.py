"""Background augmentation: an image's foreground before another background (2103.12719).

Masks are not 0 in the foreground. Images have uint8 pixels: backgrounds are replaced before all
other operations, so that foreground and background are flipped, blurred and coloured as one image.
No code of the paper is public; deviations from it are not known.
"""

import jax
import jax.numpy as jnp

from ssl_jax.core import rng, sharding
from ssl_jax.core.chain import Background

Array = jax.Array
_MIDDLE = 127.5  # level of the background of an image that is all foreground


def composite(image: Array, mask: Array, behind: Array) -> Array:
    """Put the foreground of images (..., H, W, C) with masks (..., H, W) before others."""
    return jnp.where(mask[..., None] > 0, image, behind)


def without_foreground(image: Array, mask: Array) -> Array:
    """Fill the foreground of an image (H, W, C) smoothly from the background around it; uint8.

    Pull-push: the background is averaged to half its size until the gap is closed, and the gap
    takes the values of the smaller image.
    """
    filled = _fill(image.astype(jnp.float32), mask[..., None] == 0)
    return jnp.round(filled).astype(jnp.uint8)


def replace(
    how: Background, key: Array, index: Array, images: Array, masks: Array, untouched: int = 0
) -> Array:
    """Replace the backgrounds of crops (B, n, H, W, C) uint8 with masks (B, n, H, W).

    Args:
      key: the step's key of this view; draws are keyed by the examples' `index` (B,) as well.
      untouched: number of crops of each image, the first ones, that keep their background.
    """
    count = images.shape[1]
    chance, level, rank = _draws(key, index, count)
    share = jnp.mean(masks > 0, axis=(2, 3))
    usable = (share >= how.area[0]) & (share <= how.area[1])
    if how.fill == "gray":
        behind = jnp.round(255 * level).astype(jnp.uint8)[..., None, None, None]
    else:
        other = jax.vmap(partners, (1, None), 1)(rank, index)
        crop = jnp.arange(count)
        empty = jax.vmap(jax.vmap(without_foreground))(images, masks)
        behind = sharding.split_rows(empty[other, crop])
        usable &= share[other, crop] <= how.area[1]  # the other image has a background
    chosen = usable & (chance < how.probability) & (jnp.arange(count) >= untouched)
    masks = jnp.where(chosen[..., None, None], masks, 1)
    return composite(images, masks, behind)


def matched(how: Background, key: Array, index: Array, images: Array, masks: Array) -> Array:
    """Show another image's foreground before each image's own background: (B, H, W, C) uint8.

    The background is that of the first crop in `images` (B, n, H, W, C), the foreground that of the
    other image's last crop. Where a mask's share is outside of `how.area`, the other image keeps
    its own background: it is a negative all the same.
    """
    *_, rank = _draws(key, index, 1)
    other = partners(rank[:, 0], index)
    image, mask = (sharding.split_rows(x[other, -1]) for x in (images, masks))
    share, own = (jnp.mean(m > 0, axis=(1, 2)) for m in (mask, masks[:, 0]))
    usable = (share >= how.area[0]) & (share <= how.area[1]) & (own <= how.area[1])
    behind = jax.vmap(without_foreground)(images[:, 0], masks[:, 0])
    return composite(image, jnp.where(usable[:, None, None], mask, 1), behind)


def partners(rank: Array, index: Array) -> Array:
    """Return the row of another example for each row of a batch (B,), each row once.

    The examples are put in a circle in the order of their random `rank`; each one's partner is the
    one before it. So an example is its own partner only in a batch of one, and its partner does
    not depend on the order of the batch.
    """
    circle = jnp.lexsort((index, rank))
    return jnp.roll(circle, 1)[jnp.argsort(circle)]


def _draws(key: Array, index: Array, count: int) -> tuple[Array, Array, Array]:
    """Draw three random numbers, (B, count) each, per crop."""
    draw = jax.vmap(lambda k: jax.random.uniform(k, (3, count)))
    chance, level, rank = jnp.moveaxis(draw(rng.per_example(key, index)), 1, 0)
    return chance, level, rank


def _fill(image: Array, known: Array) -> Array:
    """Fill the pixels of (H, W, C) that are not `known` (H, W, 1)."""
    height, width, _ = image.shape
    if height * width == 1:
        return jnp.where(known, image, _MIDDLE)

    def halve(x: Array) -> Array:
        x = jnp.pad(x, ((0, height % 2), (0, width % 2), (0, 0)))
        return x.reshape(-(-height // 2), 2, -(-width // 2), 2, -1).sum((1, 3))

    count = halve(known.astype(image.dtype))
    small = halve(jnp.where(known, image, 0)) / jnp.maximum(count, 1)
    around = jax.image.resize(_fill(small, count > 0), image.shape, "linear")
    return jnp.where(known, image, around)
