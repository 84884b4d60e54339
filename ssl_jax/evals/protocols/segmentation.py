"""Linear segmentation: the class of each pixel from frozen patch features, by a batch norm and a
1x1 convolution (the linear protocol of DINOv2 and DINOv3, 2304.07193 and 2508.10104).
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
from ssl_jax.objectives.base import Encoder

Array = jax.Array

Layer = tuple[View, int, int]  # view, stage, patch of `features.maps`
Batch = tuple[Array, Array]  # images (B, S, S, channels) and masks (B, S, S), uint8

EPS = 1e-5
FORGET = 0.1  # of the running statistics, a batch
WARMUP = 1500 / 40_000


@dataclass(frozen=True, kw_only=True)
class Segmentation(Protocol):
    """Mean intersection over union of a linear classifier of patches, over the classes.

    Attributes:
      train, test: folders with images/NAME.jpg and masks/NAME.png of class numbers, 255 for none;
        without them nothing is measured.
      size: whole images are resized to squares of this side, and scored there.
      stage: of the backbone; -1 is the last.
      reduce_zero_label: 0 is no class, and the classes are counted from 1 (ADE20K).
      steps, batch_size, lr, weight_decay: of AdamW, a linear warmup and then half a cosine.
      seed: of the order of the images and of the first weights.
      patch: side of the patches that raw pixels are measured by.
    """

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
            raise UserError("segmentation: name both folders, train and test")

    needs: ClassVar[str] = "folders of images and masks (train, test)"

    def applies(self, subject: Subject) -> bool:
        """Whether it has images with masks; raw pixels are measured too."""
        return bool(self.train)

    def measure(self, subject: Subject) -> dict[str, float]:
        images = subject.images
        how = images.channels, self.reduce_zero_label, images.train.source.value_range
        train, test = (Scenes.of(folder, self.size, *how) for folder in (self.train, self.test))
        classes = max(train.num_classes(), test.num_classes())
        head = self.fit(subject, train, classes)
        counts = np.zeros((classes, classes), np.int64)
        for batch in self.batches(subject, test, np.arange(len(test.files))):
            counts += gather(_confusion(head, subject.encoder, batch, self.layer(subject)))
        if not all(np.isfinite(x).all() for x in jax.device_get(head)):
            raise NotMeasurable("the classifier of patches is not finite: lower its lr")
        return {f"segmentation_{name}": value for name, value in scores(counts).items()}

    def fit(self, subject: Subject, train: Scenes, classes: int) -> "Head":
        """The classifier after `steps` batches, the images in a new order in each epoch."""
        rng, mesh = np.random.default_rng(self.seed), subject.images.mesh
        layer = self.layer(subject)
        one = jnp.zeros((1, self.size, self.size, train.channels), jnp.uint8)
        dim = jax.eval_shape(lambda net: features.maps(net, *layer, one), subject.encoder).shape[-1]
        weight = rng.normal(0, 0.01, (dim, classes)).astype(np.float32)
        bias, mean = np.zeros(classes, np.float32), np.zeros(dim, np.float32)
        parts = weight, bias, mean, np.ones_like(mean)
        state = jax.device_get(self.optimizer().init(parts[:2]))
        parts, state = place((parts, state), sharding.replicated(mesh))
        head = Head(*parts)
        count = self.steps * self.batch_size
        epochs = -(-count // len(train.files))
        order = np.concatenate([rng.permutation(len(train.files)) for _ in range(epochs)])[:count]
        filling = (0, self.whole_batch(mesh) - self.batch_size)
        order = np.pad(
            order.reshape(-1, self.batch_size), ((0, 0), filling), constant_values=-1
        ).ravel()
        for batch in self.batches(subject, train, order):
            head, state = _step(head, state, subject.encoder, batch, layer, self)
        return head

    def layer(self, subject: Subject) -> "Layer":
        """Where features are read; see `features.maps`."""
        return subject.images.view, self.stage, self.patch

    def optimizer(self) -> optax.GradientTransformation:
        rate = optax.warmup_cosine_decay_schedule(
            0.0, self.lr, round(WARMUP * self.steps), max(self.steps, 2)
        )
        return optax.adamw(rate, weight_decay=self.weight_decay)

    def whole_batch(self, mesh: jax.sharding.Mesh) -> int:
        """`batch_size`, with filling up to a multiple of the devices."""
        return self.batch_size + -self.batch_size % mesh.size

    def batches(self, subject: Subject, scenes: Scenes, rows: np.ndarray) -> Iterator["Batch"]:
        """Images and masks in this order, split over the devices."""
        mesh = subject.images.mesh
        count = self.whole_batch(mesh)
        mine = sharding.local_rows(mesh, count)
        rows = local_part(rows, count, mine).reshape(-1, len(mine))
        with ThreadPoolExecutor(1) as ahead:
            coming = collections.deque(ahead.submit(scenes.read, some) for some in rows[:2])
            for following in [*rows[2:], None, None][: len(rows)]:
                distributed.tick()
                batch = to_global(coming.popleft().result(), sharding.batch_sharding(mesh))
                if following is not None:
                    coming.append(ahead.submit(scenes.read, following))
                yield batch


class Head(NamedTuple):
    """logits = (x - mean) / sqrt(variance + 1e-5) @ weight + bias, of features (..., D)."""

    weight: Array  # (D, C)
    bias: Array  # (C,)
    mean: Array  # (D,), of the training patches, running
    variance: Array

    def logits(self, x: Array, size: int) -> Array:
        """(B, size, size, C) of maps (B, h, w, D), bilinearly enlarged."""
        found = (x - self.mean) * jax.lax.rsqrt(self.variance + EPS) @ self.weight + self.bias
        return jax.image.resize(found, (len(x), size, size, found.shape[-1]), "linear")


def scores(counts: np.ndarray) -> dict[str, float]:
    """Mean intersection over union of the classes that there are, and the share of right pixels.

    Args:
      counts: (C, C) pixels of each true (row) and each predicted class.
    """
    right, union = np.diag(counts), counts.sum(0) + counts.sum(1) - np.diag(counts)
    there = union > 0
    if not there.any():
        raise UserError("segmentation: no pixel of the test masks has a class")
    return {
        "miou": float(np.mean(right[there] / union[there])),
        "pixel_accuracy": float(right.sum() / counts.sum()),
    }


@functools.partial(jax.jit, static_argnums=(4, 5), donate_argnums=(0, 1))
def _step(
    head: Head,
    state: optax.OptState,
    encoder: Encoder | None,
    batch: Batch,
    layer: Layer,
    how: Segmentation,
) -> tuple[Head, optax.OptState]:
    """One update; features are normalised by the batch's own mean and variance, filling apart."""
    images, masks = batch
    x = features.maps(encoder, *layer, images)
    real = (jnp.arange(len(x)) < how.batch_size)[:, None, None, None]
    mean, variance = (f(x, (0, 1, 2), where=real) for f in (jnp.mean, jnp.var))
    scored = masks != IGNORED

    def loss(trained: tuple[Array, Array]) -> Array:
        logits = Head(*trained, mean, variance).logits(x, images.shape[1])
        labels = jnp.where(scored, masks, 0).astype(jnp.int32)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.sum(each, where=scored) / jnp.maximum(jnp.sum(scored), 1)

    grads = jax.grad(loss)(head[:2])
    updates, state = how.optimizer().update(grads, state, head[:2])
    running = (
        old + FORGET * (new - old) for old, new in zip(head[2:], (mean, variance), strict=True)
    )
    return Head(*optax.apply_updates(head[:2], updates), *running), state


@functools.partial(jax.jit, static_argnums=3)
def _confusion(head: Head, encoder: Encoder | None, batch: Batch, layer: Layer) -> Array:
    """Pixels (C, C) of each true and each predicted class in a batch."""
    images, masks = batch
    found = jnp.argmax(head.logits(features.maps(encoder, *layer, images), images.shape[1]), -1)
    classes = len(head.bias)
    place = jnp.where(masks != IGNORED, masks.astype(jnp.int32) * classes + found, classes**2)
    return jnp.bincount(place.ravel(), length=classes**2 + 1)[:-1].reshape(classes, classes)
