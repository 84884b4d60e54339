"""Attention maps of vision transformers: their mean distance and their entropy."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count
from ssl_jax.evals.base import Batch, Protocol, Subject
from ssl_jax.losses.shapes import check_shapes
from ssl_jax.objectives.base import Encoder

Array = jax.Array
BATCH = 16  # images whose maps are in memory at once: 100 MB each for a ViT-L of 257 tokens


@dataclass(frozen=True, kw_only=True)
class AttentionMaps(Protocol):
    """Mean attention distance and entropy on clean test images, for backbones that are ViTs.

    `attention_distance_0` (pixels) and `attention_entropy_0` (nats) are those of the first block,
    averaged over its heads; `attention_distance_0_1` and `attention_entropy_0_1` are those of its
    second head. 2205.13543 (section 3.1) compares both, per head, between methods.

    Attributes:
      examples: test images (128 in the paper, 2010.11929).
    """

    titles: ClassVar[Mapping[str, str]] = {
        "attention_distance_{block}": "attention distance (pixels), block {block}",
        "attention_distance_{block}_{head}": "attention distance, block {block}, head {head}",
        "attention_entropy_{block}": "attention entropy (nats), block {block}",
        "attention_entropy_{block}_{head}": "attention entropy, block {block}, head {head}",
    }
    examples: Count = 128

    prefix: ClassVar[str] = "diag"
    labels: ClassVar[bool] = False

    needs: ClassVar[str] = "a vision transformer"

    def applies(self, subject: Subject) -> bool:
        return subject.encoder is not None and subject.encoder.net.attention

    def measure(self, subject: Subject) -> dict[str, float]:
        part = subject.images.some(self.examples)
        (reach, spread), _ = subject.map(_distance_and_entropy, part, batch_size=BATCH)
        out = {}
        for name, values in (("distance", reach), ("entropy", spread)):
            for i, heads in enumerate(values.mean(0)):
                out[f"attention_{name}_{i}"] = float(heads.mean())
                out |= {f"attention_{name}_{i}_{h}": float(x) for h, x in enumerate(heads)}
        return out


def attention_maps(encoder: Encoder, images: Array) -> Array:
    """Return the attention weights of every token in every block: (layers, B, heads, T, T) float32.

    Rows sum to 1. Tokens are the class token, if there is one, and the patches, row by row.

    Args:
      images: (B, H, W, C), normalised.

    Raises:
      UserError: the backbone has no attention over the whole image.
    """
    if not encoder.net.attention:
        raise UserError(f"attention maps need a ViT, not {encoder.net.name or 'this backbone'}")
    out = encoder.net.apply(encoder.params, encoder.stats, images, train=False, attention=True)[0]
    return jnp.swapaxes(out.attention, 0, 1)


def distance(maps: Array, side: float) -> Array:
    """Mean attention distance (2010.11929, figure 7), in pixels.

    The distance between the centers of a query and a key patch, averaged over the keys with the
    attention weights, then over the queries. The class token is neither a query nor a key: the
    weights of the patches are rescaled to sum to 1.

    Args:
      maps: (..., T, T), T the square of an integer, or one more for a class token at the front.
      side: side of the image, in pixels.
    """
    check_shapes("distance: maps (..., T, T)", maps)
    count = math.isqrt(maps.shape[-1])
    patches = maps[..., -(count**2) :, -(count**2) :]
    row, column = np.divmod(np.arange(count**2), count)
    apart = np.hypot(row[:, None] - row, column[:, None] - column) * side / count
    total = jnp.maximum(patches.sum(-1), jnp.finfo(maps.dtype).tiny)
    return jnp.mean((patches * apart).sum(-1) / total, axis=-1)


def entropy(maps: Array) -> Array:
    """Entropy of the attention (..., T, T) of each token, in nats, averaged over tokens.

    0 if every token attends to a single token, ln T if it attends to all of them equally.
    """
    check_shapes("entropy: maps (..., T, T)", maps)
    return jnp.mean(jax.scipy.special.entr(maps).sum(-1), axis=-1)


def _distance_and_entropy(encoder: Encoder, batch: Batch) -> tuple[Array, Array]:
    """Return the distance and the entropy per image, layer and head, both (B, layers, heads)."""
    maps = jnp.swapaxes(attention_maps(encoder, batch.images), 0, 1)
    return distance(maps, batch.view.side), entropy(maps)
