"""Surface normals from frozen maps by a linear head (Probe3D, 2404.08636, with a linear head)."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core import distributed, sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.placement import gather, place, to_global
from ssl_jax.core.ranges import Count, Integer, NonNegative, Positive, Seed
from ssl_jax.data.decode import averaged
from ssl_jax.data.masks import read_image
from ssl_jax.data.scene_folders import pairs
from ssl_jax.evals.base import Protocol, Subject
from ssl_jax.evals.dense_heads import Head
from ssl_jax.evals.dense_training import HeadTraining, Layer, fit, logits_of
from ssl_jax.evals.depth_metrics import angles, angular_errors

Array = jax.Array
BLACK = 3  # a pixel whose values are all at most this has no normal


@dataclass(frozen=True, kw_only=True)
class Normals(Protocol):
    """Angles between the normals that a linear head predicts and the true ones, over all pixels of
    all test images.

    The head is a batch norm and a 1x1 convolution to 3 numbers, scaled to length 1; its loss is 1
    minus the cosine.

    Attributes:
      train, test: folders with images/NAME.jpg and normals/NAME.png, colours 127.5 (n + 1), black
        where the normal is not known; without them nothing is measured.
      size: images are resized to squares of this side.
      stages: stages whose maps are joined; by default the last one.
      steps, batch_size, lr, weight_decay: settings of the training by AdamW, with a tenth of
        the steps for the warmup and then half a cosine.
      seed: seed of the order of the images and of the initial weights.
      patch: side of the patches that raw pixels are split into.
    """

    scores: ClassVar[tuple[str, ...]] = ("normals_within",)
    decides: ClassVar[tuple[str, ...]] = ("normals_within_11.25",)
    labels: ClassVar[bool] = False
    of_pixels: ClassVar[tuple[str, ...]] = ("patch",)
    needs: ClassVar[str] = "folders of images and normals (train, test)"

    train: str = ""
    test: str = ""
    size: Count = 480
    stages: tuple[Integer, ...] = (-1,)
    steps: Count = 10_000
    batch_size: Count = 8
    lr: Positive = 5e-4
    weight_decay: NonNegative = 0.01
    seed: Seed = 0
    patch: Count = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.train) != bool(self.test) or not self.stages:
            raise UserError("normals: give both folders, train and test, and a stage")

    def applies(self, subject: Subject) -> bool:
        """Return whether it has images with normals; raw pixels are measured too."""
        return bool(self.train)

    def measure(self, subject: Subject) -> dict[str, float]:
        images = subject.images
        train, test = (
            pairs(Path(folder) / "images", Path(folder) / "normals")
            for folder in (self.train, self.test)
        )
        stages = self.stages if subject.encoder is not None else (-1,)
        layer = Layer(images.view, stages, self.patch)
        head = Head("linear", layer.widths(subject, self.size), 0, 3)
        options = images.channels, images.train.source.value_range

        def pixels(file: Path) -> np.ndarray:
            return averaged(read_image(file, *options), self.size, self.size)

        def sample(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
            image, file = train[int(rng.integers(len(train)))]
            normals = read_normals(file)
            rows, columns = (np.arange(self.size) * side // self.size for side in normals.shape[:2])
            return pixels(image), normals[rows[:, None], columns]

        training = HeadTraining(
            *(self.steps, self.batch_size, self.lr, self.weight_decay, self.seed),
            warmup=0.1,
            decay="cosine",
        )
        weights = fit(subject, head, layer, sample, cosine_loss, training)
        mesh = images.mesh
        weights = place(weights, sharding.replicated(mesh))
        placed, mine = sharding.batch_sharding(mesh), sharding.local_rows(mesh, mesh.size)
        degrees = []
        for start in range(0, len(test), mesh.size):
            distributed.tick()
            part = test[start : start + mesh.size]
            batch = np.stack([pixels(part[min(i, len(part) - 1)][0]) for i in mine])
            logits = logits_of(weights, subject.encoder, to_global(batch, placed), head, layer)
            for (_, file), own in zip(part, gather(logits), strict=False):
                truth = read_normals(file)
                own = np.asarray(jax.image.resize(own, truth.shape, "linear"))
                degrees.append(angles(own, truth))
        errors = angular_errors(np.concatenate(degrees))
        return {f"normals_{name}": value for name, value in errors.items()}


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
    known = jnp.any(normals != 0, axis=-1) & real[:, None, None]
    return jnp.sum(1 - cosine, where=known) / jnp.maximum(known.sum(), 1)


def read_normals(file: Path) -> np.ndarray:
    """Read normals (H, W, 3) float32 of length 1, zero where they are not known.

    Raises:
      UserError: no image.
    """
    colours = read_image(file, 3)
    normals = colours.astype(np.float32) / 127.5 - 1
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    known = (colours > BLACK).any(axis=-1, keepdims=True) & (length > 0.1)
    return np.where(known, normals / np.maximum(length, 0.1), 0).astype(np.float32)
