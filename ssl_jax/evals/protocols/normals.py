"""Surface normals from frozen maps by a linear or a DPT head (Probe3D, 2404.08636, has a larger
one).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.ranges import Count, NonNegative, Positive
from ssl_jax.data.masks import read_image
from ssl_jax.data.scene_folders import pairs
from ssl_jax.evals.base import Subject
from ssl_jax.evals.dense import DenseRegression
from ssl_jax.evals.depth_metrics import angles, angular_errors

Array = jax.Array
BLACK = 3  # a pixel whose values are all at most this has no normal


@dataclass(frozen=True, kw_only=True)
class Normals(DenseRegression):
    """Angles between the normals that a head predicts and the true ones, over all pixels of all
    test images.

    The head has 3 outputs, scaled to length 1; its loss is 1 minus the cosine. AdamW has a tenth of
    the steps for the warmup and then half a cosine.

    Attributes:
      train, test: folders with images/NAME.jpg and normals/NAME.png, colours 127.5 (n + 1), black
        where the normal is not known; without them nothing is measured.
    """

    titles: ClassVar[Mapping[str, str]] = {
        "normals_within_{limit}": "normals, share within {limit} degrees",
        "normals_mean": "normals, mean angle, degrees",
        "normals_median": "normals, median angle, degrees",
        "normals_rmse": "normals, root mean squared angle, degrees",
    }
    scores: ClassVar[tuple[str, ...]] = ("normals_within",)
    decides: ClassVar[tuple[str, ...]] = ("normals_within_11.25",)
    needs: ClassVar[str] = "folders of images and normals (train, test)"

    size: Count = 480
    steps: Count = 10_000
    batch_size: Count = 8
    lr: Positive = 5e-4
    weight_decay: NonNegative = 0.01

    def measure(self, subject: Subject) -> dict[str, float]:
        train, test = (
            pairs(folder / "images", folder / "normals")
            for folder in (Path(self.train).expanduser(), Path(self.test).expanduser())
        )
        degrees = []
        for file, own in self.predictions(
            *(subject, train, test, 3, read_normals, cosine_loss, self.training(0.1), as_they_are)
        ):
            truth = read_normals(file)
            own = np.asarray(jax.image.resize(own, truth.shape, "linear"))
            degrees.append(angles(own, truth))
        errors = angular_errors(np.concatenate(degrees))
        return {f"normals_{name}": value for name, value in errors.items()}


def as_they_are(outputs: Array) -> Array:
    """Return the outputs of a head."""
    return outputs


def cosine_loss(logits: Array, normals: Array, real: Array) -> Array:
    """Mean of 1 - cosine over the pixels of the real images whose normal is known.

    Args:
      logits: (B, h, w, 3).
      normals: (B, H, W, 3), zero where it is not known.
      real: (B,).
    """
    predicted = jax.image.resize(logits, normals.shape, "linear")
    length = jnp.sqrt(jnp.sum(jnp.square(predicted), axis=-1) + 1e-12)
    cosine = jnp.sum(predicted * normals, axis=-1) / length
    valid = jnp.any(normals != 0, axis=-1) & real[:, None, None]
    return jnp.sum(1 - cosine, where=valid) / jnp.maximum(valid.sum(), 1)


def read_normals(file: Path) -> np.ndarray:
    """Read normals (H, W, 3) float32 of length 1, zero where they are not known.

    Raises:
      UserError: no image.
    """
    colours = read_image(file, 3)
    normals = colours.astype(np.float32) / 127.5 - 1
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    valid = (colours > BLACK).any(axis=-1, keepdims=True) & (length > 0.1)
    return np.where(valid, normals / np.maximum(length, 0.1), 0).astype(np.float32)
