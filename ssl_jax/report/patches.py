"""Views of an encoder's patches: attention maps, and features as colours."""

import math
from typing import NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.decomposition import PCA

from ssl_jax.evals.protocols.attention import attention_maps
from ssl_jax.objectives.base import Encoder

COARSEST = 4  # smallest side, in cells, of a feature map that gets a picture
HEADS = 6  # attention heads that are shown


class Grid(NamedTuple):
    """A picture ready to be shown: rows of images (h, w, C) uint8, each of any size.

    `predicted` and `truth` are (rows, columns) indices into `answers`, or None; see `Picture`.
    """

    caption: str
    columns: tuple[str, ...]
    images: list[list[np.ndarray]]
    predicted: np.ndarray | None = None
    truth: np.ndarray | None = None
    answers: tuple[str, ...] = ()


def attention(encoder: Encoder, images: jax.Array, thumbnails: np.ndarray) -> dict[str, Grid]:
    """Draw the attention of the last block's class token, or of all patches if there is none. Empty
    for encoders without attention over the whole image.

    Args:
      images: (B, H, W, C), normalised.
      thumbnails: the same images for display, uint8.
    """
    if not encoder.net.attention:
        return {}

    @jax.jit
    def last(encoder: Encoder, images: jax.Array) -> jax.Array:
        weights = attention_maps(encoder, images)[-1]  # (B, heads, T, T)
        whole = weights.shape[-1] == math.isqrt(weights.shape[-1]) ** 2
        to = weights.mean(2) if whole else weights[:, :, 0, 1:]
        side = math.isqrt(to.shape[-1])
        to = to.reshape(*to.shape[:2], side, side)
        return jnp.concatenate([to.mean(1, keepdims=True), to[:, :HEADS]], axis=1)

    maps = np.asarray(last(encoder, images))
    heads = maps.shape[1] - 1
    has_cls = jax.eval_shape(Encoder.features, encoder, images).cls is not None
    query = "the class token" if has_cls else "the average patch"
    caption = (
        f"Attention of {query} of the last block: the mean over all heads, and {heads} single "
        "heads. Each map goes from 0 (dark) to its own largest weight (bright)."
    )
    names = ("image", "mean", *(f"head {i}" for i in range(1, heads + 1)))
    rows = [
        [image, *(_heat(each) for each in each_image)]
        for image, each_image in zip(thumbnails, maps, strict=True)
    ]
    return {"Attention": Grid(caption, names, rows)}


def colours(encoder: Encoder, images: jax.Array, thumbnails: np.ndarray) -> dict[str, Grid]:
    """Draw the last feature map as colours; empty if the map is too coarse. The arguments are those
    of `attention`.
    """
    last = np.asarray(jax.jit(lambda e, x: e.features(x).map)(encoder, images), np.float32)
    if min(last.shape[1:3]) < COARSEST or last.shape[-1] < 3 or len(last) < 2:
        return {}
    parts = PCA(3).fit_transform(last.reshape(-1, last.shape[-1]))
    low, high = np.percentile(parts, (1, 99), axis=0)
    parts = np.clip((parts - low) / np.maximum(high - low, 1e-12), 0, 1)
    pictures = (parts * 255).astype(np.uint8).reshape(*last.shape[:3], 3)
    caption = (
        f"The features of the {last.shape[1]} x {last.shape[2]} patches of the last layer: their "
        f"first three principal components, over all patches of these {len(last)} images, as red, "
        "green and blue. Patches of similar colour have similar features."
    )
    rows = [[image, colour] for image, colour in zip(thumbnails, pictures, strict=True)]
    return {"Features of the patches": Grid(caption, ("image", "features"), rows)}


def _heat(weights: np.ndarray) -> np.ndarray:
    """Return weights (h, w) as colours (h, w, 3) of rising brightness."""
    scaled = (weights / max(weights.max(), 1e-12) * 255).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(scaled, cv2.COLORMAP_VIRIDIS))[..., ::-1]
