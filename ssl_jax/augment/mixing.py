"""Mixup and CutMix. Images are (B, H, W, C), targets (B, K) probabilities.

The partner of example i is example B - 1 - i (timm's choice) of the global batch, so the result
does not depend on the number of devices; a sharded batch needs one permutation between devices.
"""

import jax
import jax.numpy as jnp

from ssl_jax.augment import erasing

Array = jax.Array


def mixup(key: Array, images: Array, targets: Array, alpha: float = 0.8) -> tuple[Array, Array]:
    """Mix images and targets as share * x + (1 - share) * partner, with one share ~ Beta(alpha,
    alpha) per batch (Zhang et al. 2018).
    """
    share = jax.random.beta(key, alpha, alpha)
    return _blend(images, share), _blend(targets, share)


def cutmix(key: Array, images: Array, targets: Array, alpha: float = 1.0) -> tuple[Array, Array]:
    """Paste a box of the partner; mix targets by the share of pixels (Yun et al. 2019).

    The box, one per batch, has sqrt(1 - share) of each side, share ~ Beta(alpha, alpha), and is
    clipped at the border; the targets use the clipped area.
    """
    share_key, box_key = jax.random.split(key)
    height, width = images.shape[1:3]
    side = jnp.sqrt(1.0 - jax.random.beta(share_key, alpha, alpha))
    box = erasing.centred_box(
        box_key, height, width, jnp.floor(height * side), jnp.floor(width * side)
    )
    pasted = erasing.inside(box, height, width)
    return (
        jnp.where(pasted[..., None], images[::-1], images),
        _blend(targets, 1.0 - pasted.mean(dtype=jnp.float32)),
    )


def mixup_or_cutmix(
    key: Array,
    images: Array,
    targets: Array,
    mixup_alpha: float = 0.8,
    cutmix_alpha: float = 1.0,
    cutmix_p: float = 0.5,
) -> tuple[Array, Array]:
    """Apply CutMix with probability `cutmix_p`, else mixup, as fine-tuning of BEiT and MAE does."""
    choice, key = jax.random.split(key)
    return jax.lax.cond(
        jax.random.uniform(choice) < cutmix_p,
        lambda: cutmix(key, images, targets, cutmix_alpha),
        lambda: mixup(key, images, targets, mixup_alpha),
    )


def _blend(x: Array, share: Array) -> Array:
    return share * x + (1.0 - share) * x[::-1]
