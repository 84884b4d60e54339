"""Vector quantisation with a codebook of unit vectors that a moving average of the data learns, as
in VQ-KD (BEiT v2, 2208.06366; `norm_ema_quantizer.py` of microsoft/unilm).

A codebook is {"codes": (K, d), "counts": (K,)}: unit rows, and the moving average of how many
vectors had each code, which are all 0 before the first. It has no gradient: keep it in `extra`.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.objectives.parts.kmeans import kmeans, nearest, totals

Array = jax.Array
Codebook = Mapping[str, Array]


class Quantized(NamedTuple):
    """Vectors after quantisation.

    Attributes:
      codes: (...) int32, the index of the nearest row.
      vectors: (..., d), these rows; their gradient goes straight to the input.
      commitment: mean squared distance of the input to the rows, over all elements; its gradient
        moves the input.
    """

    codes: Array
    vectors: Array
    commitment: Array


def kmeans_codebook(vectors: Array, size: int, key: Array, iterations: int = 10) -> Codebook:
    """Start a codebook from the spherical k-means of unit vectors (..., d), at least `size` of
    them. A cluster without vectors keeps its centroid, and the counts are those of the clusters.
    """
    rows = _rows(vectors)
    present = jnp.ones(len(rows), bool)
    clusters = kmeans(rows, present, size, key, iterations=iterations, spherical=True, empty="keep")
    return {"codes": clusters.centroids, "counts": clusters.counts.astype(rows.dtype)}


def quantize(vectors: Array, codebook: Codebook) -> Quantized:
    """Replace unit vectors (..., d) by the nearest rows of the codebook."""
    index, _ = nearest(_rows(vectors), codebook["codes"])
    codes = index.reshape(vectors.shape[:-1])
    rows = jax.lax.stop_gradient(codebook["codes"][codes])
    commitment = jnp.mean(jnp.square(rows - vectors))
    return Quantized(codes, vectors + jax.lax.stop_gradient(rows - vectors), commitment)


def update(codebook: Codebook, vectors: Array, codes: Array, decay: float) -> Codebook:
    """Move each row towards the mean of the unit vectors (..., d) that have its code, then to
    length 1: `w <- |decay w + (1 - decay) |mean||`. The counts are averaged alike.

    A row without vectors keeps its direction. The codebook learns from the whole global batch.
    """
    old, rows = codebook["codes"], _rows(vectors)
    sums, hits = totals(rows, jnp.ones(len(rows), bool), codes.reshape(-1), len(old))
    means = jnp.where(hits[:, None] > 0, l2_normalize(sums, floor="norm"), old)
    counts = decay * codebook["counts"] + (1 - decay) * hits
    moved = l2_normalize(decay * old + (1 - decay) * means, floor="norm")
    return {"codes": moved.astype(old.dtype), "counts": counts.astype(codebook["counts"].dtype)}


def _rows(vectors: Array) -> Array:
    """Flatten vectors (..., d) to rows (N, d) without a gradient."""
    return jax.lax.stop_gradient(vectors).reshape(-1, vectors.shape[-1])
