"""Linear segmentation: predicts the class of each pixel from frozen patch features, by a batch norm
and a 1x1 convolution (the linear protocol of DINOv2 and DINOv3, 2304.07193 and 2508.10104).
"""

import collections
import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssl_jax.core import distributed, sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.core.placement import gather, place, to_global
from ssl_jax.core.ranges import Count, Integer, NonNegative, Positive, Seed
from ssl_jax.data.masks import IGNORED, Scenes
from ssl_jax.data.pipeline import local_part
from ssl_jax.evals import features
from ssl_jax.evals.base import Protocol, Subject
from ssl_jax.evals.checks import NotMeasurable
from ssl_jax.losses.shapes import check_shapes
from ssl_jax.objectives.base import Encoder

Array = jax.Array

Layer = tuple[View, int, int]  # view, stage, patch of `features.maps`
Batch = tuple[Array, Array]  # images (B, S, S, channels) and masks (B, S, S), uint8

EPS = 1e-5
FORGET = 0.1  # share of a batch in the running statistics
WARMUP = 1500 / 40_000  # share of the steps


@dataclass(frozen=True, kw_only=True)
class Segmentation(Protocol):
    """Mean intersection over union of a linear classifier of patches, over the classes.

    Attributes:
      train, test: folders with images/NAME.jpg and masks/NAME.png of class numbers, 255 for none;
        without them nothing is measured.
      size: whole images are resized to squares of this side, and scored at it.
      stage: stage of the backbone; -1 is the last.
      reduce_zero_label: 0 is no class, and the classes are counted from 1 (ADE20K).
      steps, batch_size, lr, weight_decay: settings of the training by AdamW, with a linear
        warmup and then half a cosine.
      seed: seed of the order of the images and of the initial weights.
      patch: side of the patches that raw pixels are split into.
    """

    scores: ClassVar[tuple[str, ...]] = ("segmentation",)
    decides: ClassVar[tuple[str, ...]] = ("segmentation_miou",)

    labels = False
    of_pixels = ("patch",)

    train: str = ""
    test: str = ""
    size: Count = 512
    stage: Integer = -1
    reduce_zero_label: bool = False
    steps: Count = 40_000
    batch_size: Count = 16
    lr: Positive = 1e-3
    weight_decay: NonNegative = 1e-3
    seed: Seed = 0
    patch: Count = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.train) != bool(self.test):
            raise UserError("segmentation: give both folders, train and test")

    needs: ClassVar[str] = "folders of images and masks (train, test)"

    def applies(self, subject: Subject) -> bool:
        """Return whether it has images with masks; raw pixels are measured too."""
        return bool(self.train)

    def measure(self, subject: Subject) -> dict[str, float]:
        images = subject.images
        options = images.channels, self.reduce_zero_label, images.train.source.value_range
        train, test = (Scenes.of(folder, self.size, *options) for folder in (self.train, self.test))
        classes = max(train.num_classes(), test.num_classes())
        head = self.fit(subject, train, classes)
        counts = np.zeros((classes, classes), np.int64)
        for batch in self.batches(subject, test, np.arange(len(test.files))):
            counts += gather(_confusion(head, subject.encoder, batch, self.layer(subject)))
        if not all(np.isfinite(x).all() for x in jax.device_get(head)):
            raise NotMeasurable("segmentation: the classifier diverged; lower lr")
        return {f"segmentation_{name}": value for name, value in scores(counts).items()}

    def fit(self, subject: Subject, train: Scenes, classes: int) -> "SegmentationHead":
        """Train the classifier for `steps` batches, the images in a new order in each epoch."""
        rng, mesh = np.random.default_rng(self.seed), subject.images.mesh
        layer = self.layer(subject)
        example = jnp.zeros((1, self.size, self.size, train.channels), jnp.uint8)
        maps = jax.eval_shape(lambda net: features.maps(net, *layer, example), subject.encoder)
        dim = maps.shape[-1]
        weight = rng.normal(0, 0.01, (dim, classes)).astype(np.float32)
        bias, mean = np.zeros(classes, np.float32), np.zeros(dim, np.float32)
        parts = weight, bias, mean, np.ones_like(mean)
        state = jax.device_get(self.optimizer().init(parts[:2]))
        parts, state = place((parts, state), sharding.replicated(mesh))
        head = SegmentationHead(*parts)
        count = self.steps * self.batch_size
        epochs = -(-count // len(train.files))
        order = np.concatenate([rng.permutation(len(train.files)) for _ in range(epochs)])[:count]
        padding = (0, self.whole_batch(mesh) - self.batch_size)
        order = np.pad(
            order.reshape(-1, self.batch_size), ((0, 0), padding), constant_values=-1
        ).ravel()
        for batch in self.batches(subject, train, order):
            head, state = _step(head, state, subject.encoder, batch, layer, self)
        return head

    def layer(self, subject: Subject) -> "Layer":
        """Return where features are read; see `features.maps`."""
        return subject.images.view, self.stage, self.patch

    def optimizer(self) -> optax.GradientTransformation:
        rate = optax.warmup_cosine_decay_schedule(
            0.0, self.lr, round(WARMUP * self.steps), max(self.steps, 2)
        )
        return optax.adamw(rate, weight_decay=self.weight_decay)

    def whole_batch(self, mesh: jax.sharding.Mesh) -> int:
        """Return `batch_size`, padded to a multiple of the devices."""
        return self.batch_size + -self.batch_size % mesh.size

    def batches(self, subject: Subject, scenes: Scenes, rows: np.ndarray) -> Iterator["Batch"]:
        """Yield batches of images and masks in the order `rows`, split over the devices."""
        mesh = subject.images.mesh
        count = self.whole_batch(mesh)
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


class SegmentationHead(NamedTuple):
    """logits = (x - mean) / sqrt(variance + 1e-5) @ weight + bias, of features (..., D)."""

    weight: Array  # (D, C)
    bias: Array  # (C,)
    mean: Array  # (D,), of the training patches, running
    variance: Array

    def logits(self, x: Array, size: int) -> Array:
        """Return logits (B, size, size, C) of maps (B, h, w, D), bilinearly enlarged."""
        logits = (x - self.mean) * jax.lax.rsqrt(self.variance + EPS) @ self.weight + self.bias
        return jax.image.resize(logits, (len(x), size, size, logits.shape[-1]), "linear")


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


@functools.partial(jax.jit, static_argnums=(4, 5), donate_argnums=(0, 1))
def _step(
    head: SegmentationHead,
    state: optax.OptState,
    encoder: Encoder | None,
    batch: Batch,
    layer: Layer,
    settings: Segmentation,
) -> tuple[SegmentationHead, optax.OptState]:
    """Take one step; features are normalised by the batch's mean and variance, without padding."""
    images, masks = batch
    x = features.maps(encoder, *layer, images)
    real = (jnp.arange(len(x)) < settings.batch_size)[:, None, None, None]
    mean, variance = (f(x, (0, 1, 2), where=real) for f in (jnp.mean, jnp.var))
    scored = masks != IGNORED

    def loss(parameters: tuple[Array, Array]) -> Array:
        logits = SegmentationHead(*parameters, mean, variance).logits(x, images.shape[1])
        labels = jnp.where(scored, masks, 0).astype(jnp.int32)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.sum(losses, where=scored) / jnp.maximum(jnp.sum(scored), 1)

    grads = jax.grad(loss)(head[:2])
    updates, state = settings.optimizer().update(grads, state, head[:2])
    running = (
        old + FORGET * (own - old) for old, own in zip(head[2:], (mean, variance), strict=True)
    )
    return SegmentationHead(*optax.apply_updates(head[:2], updates), *running), state


@functools.partial(jax.jit, static_argnums=3)
def _confusion(
    head: SegmentationHead, encoder: Encoder | None, batch: Batch, layer: Layer
) -> Array:
    """Count the pixels (C, C) per true and predicted class in a batch."""
    images, masks = batch
    predicted = jnp.argmax(head.logits(features.maps(encoder, *layer, images), images.shape[1]), -1)
    classes = len(head.bias)
    place = jnp.where(masks != IGNORED, masks.astype(jnp.int32) * classes + predicted, classes**2)
    return jnp.bincount(place.ravel(), length=classes**2 + 1)[:-1].reshape(classes, classes)
