"""Comparison of the backbone's stages: effective ranks, and the similarity of two stages (CKA)."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core.ranges import Several
from ssl_jax.evals.base import Batch, Protocol, Subject
from ssl_jax.evals.protocols.diagnostics import rankme
from ssl_jax.losses.normalize import as_float
from ssl_jax.losses.shapes import check_shapes
from ssl_jax.objectives.base import Encoder

Array = jax.Array


@dataclass(frozen=True, kw_only=True)
class Layers(Protocol):
    """RankMe of every stage, averaged over its positions, and CKA of every pair of stages.

    `rankme_0` is that of the first stage, `cka_0_1` the similarity of the first two.

    Attributes:
      examples: test images.
    """

    titles: ClassVar[Mapping[str, str]] = {
        "rankme_{stage}": "effective rank (RankMe), stage {stage}",
        "cka_{first}_{second}": "similarity (CKA) of stages {first} and {second}",
    }
    examples: Several = 2048

    prefix: ClassVar[str] = "diag"
    labels: ClassVar[bool] = False

    def measure(self, subject: Subject) -> dict[str, float]:
        stages, _ = subject.map(pooled_stages, subject.images.some(self.examples))
        out = {f"rankme_{i}": float(rankme(rows)) for i, rows in enumerate(stages)}
        for i, j in itertools.combinations(range(len(stages)), 2):
            out[f"cka_{i}_{j}"] = float(cka(stages[i], stages[j]))
        return out


def cka(x: Array, y: Array) -> Array:
    """Linear centred kernel alignment of (N, D) and (N, E), for the same rows (1905.00414, eq. 4).

    1 for features that are equal up to rotation and scale, 0 for uncorrelated features.
    """
    check_shapes("cka: x (N, D), y (N, E)", x, y)
    x, y = (as_float(a) for a in (x, y))
    x, y = (a - a.mean(0) for a in (x, y))
    square = lambda a, b: jnp.sum(jnp.square(jnp.matmul(a.T, b, precision="highest")))  # noqa: E731
    both = jnp.sqrt(square(x, x)) * jnp.sqrt(square(y, y))
    return square(x, y) / jnp.maximum(both, jnp.finfo(both.dtype).tiny)


def pooled_stages(encoder: Encoder, batch: Batch) -> tuple[Array, ...]:
    """Return the pooled features (B, C) float32 of each stage, in order."""
    stages = encoder.features(batch.images).stages
    return tuple(stage.pool("avg").astype(jnp.float32) for stage in stages)
