"""Linear segmentation: predicts the class of each pixel from frozen patch features, by a batch norm
and a 1x1 convolution (the linear protocol of DINOv2 and DINOv3, 2304.07193 and 2508.10104).
"""

import collections
import functools
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssl_jax.core import distributed, sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.placement import gather, place, to_global
from ssl_jax.core.ranges import Integer
from ssl_jax.data.masks import IGNORED, Scenes
from ssl_jax.data.pipeline import local_part
from ssl_jax.evals.base import Subject
from ssl_jax.evals.dense import DenseProtocol
from ssl_jax.evals.dense_heads import Head
from ssl_jax.evals.dense_training import Layer, fit, logits_of
from ssl_jax.losses.shapes import check_shapes
from ssl_jax.objectives.base import Encoder

Array = jax.Array

Batch = tuple[Array, Array]  # images (B, S, S, channels) and masks (B, S, S), uint8

WARMUP = 1500 / 40_000  # share of the steps


@dataclass(frozen=True, kw_only=True)
class Segmentation(DenseProtocol):
    """Mean intersection over union of a linear classifier of patches, over the classes.

    AdamW has a linear warmup from 0 and then half a cosine.

    Attributes:
      train, test: folders with images/NAME.jpg and masks/NAME.png of class numbers, 255 for none;
        without them nothing is measured.
      size: whole images are resized to squares of this side, and scored at it.
      stage: stage of the backbone; -1 is the last.
      reduce_zero_label: 0 is no class, and the classes are counted from 1 (ADE20K).
    """

    titles: ClassVar[Mapping[str, str]] = {
        "segmentation_miou": "linear segmentation, mIoU",
        "segmentation_pixel_accuracy": "linear segmentation, accuracy of pixels",
    }
    scores: ClassVar[tuple[str, ...]] = ("segmentation",)
    decides: ClassVar[tuple[str, ...]] = ("segmentation_miou",)
    needs: ClassVar[str] = "folders of images and masks (train, test)"

    stage: Integer = -1
    reduce_zero_label: bool = False

    def measure(self, subject: Subject) -> dict[str, float]:
        images = subject.images
        options = images.channels, self.reduce_zero_label, images.train.source.value_range
        train, test = (Scenes.of(folder, self.size, *options) for folder in (self.train, self.test))
        classes = max(train.num_classes(), test.num_classes())
        layer = Layer(images.view, (self.stage,), self.patch)
        head = Head("linear", layer.widths(subject, self.size), 0, classes)
        rng, count = np.random.default_rng(self.seed), self.steps * self.batch_size
        _ = rng.normal(size=(head.widths[0], classes))  # the weights, before the order
        epochs = -(-count // len(train.files))
        order = np.concatenate([rng.permutation(len(train.files)) for _ in range(epochs)])

        def sample(_: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
            row = order[number]
            return train.image(row), train.mask(row)

        training = self.training(WARMUP, from_zero=True)
        weights = fit(subject, head, layer, sample, pixel_loss, training)
        weights = place(weights, sharding.replicated(images.mesh))
        counts = np.zeros((classes, classes), np.int64)
        for batch in self.batches(subject, test, np.arange(len(test.files))):
            counts += gather(_confusion(weights, subject.encoder, batch, head, layer))
        return {f"segmentation_{name}": value for name, value in scores(counts).items()}

    def batches(self, subject: Subject, scenes: Scenes, rows: np.ndarray) -> Iterator["Batch"]:
        """Yield batches of images and masks in the order `rows`, split over the devices."""
        mesh = subject.images.mesh
        count = self.batch_size + -self.batch_size % mesh.size
        mine = sharding.local_rows(mesh, count)
        rows = local_part(rows, count, mine).reshape(-1, len(mine))
        with ThreadPoolExecutor(1) as ahead:
            coming = collections.deque(ahead.submit(scenes.read, batch) for batch in rows[:2])
            for following in [*rows[2:], None, None][: len(rows)]:
                distributed.tick()
                batch = to_global(coming.popleft().result(), sharding.batch_sharding(mesh))
                if following is not None:
                    coming.append(ahead.submit(scenes.read, following))
                yield batch


def scores(counts: np.ndarray) -> dict[str, float]:
    """Return the mean intersection over union of the classes that occur, and the share of correct
    pixels.

    Args:
      counts: (C, C) pixels per true (row) and predicted class.
    """
    check_shapes("scores: counts (C, C)", counts)
    correct, union = np.diag(counts), counts.sum(0) + counts.sum(1) - np.diag(counts)
    present = union > 0
    if not present.any():
        raise UserError("segmentation: no pixel of the test masks has a class")
    return {
        "miou": float(np.mean(correct[present] / union[present])),
        "pixel_accuracy": float(correct.sum() / counts.sum()),
    }


def pixel_loss(logits: Array, masks: Array, real: Array) -> Array:
    """Return the mean cross-entropy of the pixels that have a class.

    Args:
      logits: (B, h, w, C), which are resized to the masks.
      masks: (B, H, W) uint8, `IGNORED` for pixels without a class.
      real: (B,), images that are no padding.
    """
    scored = (masks != IGNORED) & real[:, None, None]
    logits = jax.image.resize(logits, (*masks.shape, logits.shape[-1]), "linear")
    labels = jnp.where(scored, masks, 0).astype(jnp.int32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.sum(losses, where=scored) / jnp.maximum(jnp.sum(scored), 1)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _confusion(
    weights: Any, encoder: Encoder | None, batch: Batch, head: Head, layer: Layer
) -> Array:
    """Count the pixels (C, C) per true and predicted class in a batch."""
    images, masks = batch
    logits, classes = logits_of(weights, encoder, images, head, layer), head.classes
    logits = jax.image.resize(logits, (*masks.shape, classes), "linear")
    predicted = jnp.argmax(logits, -1)
    place = jnp.where(masks != IGNORED, masks.astype(jnp.int32) * classes + predicted, classes**2)
    return jnp.bincount(place.ravel(), length=classes**2 + 1)[:-1].reshape(classes, classes)
