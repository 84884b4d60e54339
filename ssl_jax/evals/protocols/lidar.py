"""LiDAR: the number of directions that separate images beyond their augmentations (2312.04000)."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import eigh

from ssl_jax.augment.recipes import augment
from ssl_jax.core.inputs import Inputs
from ssl_jax.core.ranges import Positive, Several
from ssl_jax.evals.base import AtLayer, Batch, Subject
from ssl_jax.evals.checks import check_count
from ssl_jax.losses.shapes import check_shapes
from ssl_jax.objectives.base import Encoder, Probe

Array = jax.Array


@dataclass(frozen=True, kw_only=True)
class Lidar(AtLayer):
    """LiDAR of clean test images under the method's own augmentation, as many as in the paper.

    Attributes:
      examples: images.
      views: augmentations of each.
      delta: added to the diagonal of the scatter within images.
    """

    titles: ClassVar[Mapping[str, str]] = {
        "lidar": "directions that tell images apart (LiDAR)",
    }

    examples: Several = 1000
    views: Several = 50
    delta: Positive = 1e-4

    prefix: ClassVar[str] = "diag"
    labels: ClassVar[bool] = False

    def measure(self, subject: Subject) -> dict[str, float]:
        size = max(subject.images.batch_size // self.views, 1)  # each counts `views` times
        part, probe = subject.images.some(self.examples), subject.probe_of(self)
        embeddings, _ = subject.map(_views, part, probe, self.views, batch_size=size)
        check_count(len(embeddings), 2)
        return {"lidar": lidar(embeddings, self.delta)}


def lidar(embeddings: np.ndarray, delta: float = 1e-4, eps: float = 1e-7) -> float:
    """Effective rank of the linear discriminant analysis whose classes are the images.

    `exp(-sum p ln p)` of `p = lambda / sum lambda + eps`, where lambda are the eigenvalues of
    `W^-1/2 B W^-1/2` (definitions 1 and 2): B the covariance of the images' means, W that of the
    views around them, plus delta on its diagonal. At most min(D, n - 1), up to eps.

    Args:
      embeddings: (n, q, D), q views of each of n images.
    """
    check_shapes("lidar: embeddings (n, q, D)", embeddings)
    x = np.asarray(embeddings, np.float64)
    n, q, width = x.shape
    means = x.mean(1)
    apart, around = means - means.mean(0), (x - means[:, None]).reshape(-1, width)
    between = apart.T @ apart / (n - 1)
    within = around.T @ around / (n * (q - 1)) + delta * np.eye(width)
    # The generalised eigenvalues are those of the symmetric product.
    values = np.maximum(eigh(between, within, eigvals_only=True), 0)
    p = values / max(values.sum(), np.finfo(float).tiny) + eps
    return float(np.exp(-np.sum(p * np.log(p))))


def _views(encoder: Encoder, batch: Batch, probe: Probe, count: int) -> Array:
    """Return the features (B, count, D) of `count` augmentations of each image."""
    inputs = Inputs(views=(dataclasses.replace(batch.view, count=count),))
    copies = {"views": (jnp.repeat(batch.raw[:, None], count, axis=1),), "index": batch.index}
    views = augment(inputs, copies, jax.random.key(0))["views"][0]
    rows = views.reshape(-1, *views.shape[2:])
    return probe.read(encoder.features(rows)).reshape(len(batch.raw), count, -1)
