"""Semantic segmentation of whole images by a head on frozen maps: random crops for training,
sliding windows for testing (the protocols of BEiT, iBOT and PixPro, with a frozen network).
"""

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssl_jax.core import distributed, sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.placement import gather, place, to_global
from ssl_jax.core.ranges import Count, Integer, NonNegative, Positive, Seed, Whole
from ssl_jax.data.masks import IGNORED, Scenes
from ssl_jax.evals.base import Protocol, Subject
from ssl_jax.evals.dense_heads import Head, Kind
from ssl_jax.evals.dense_training import HeadTraining, Layer, fit, logits_of
from ssl_jax.evals.protocols.segmentation import scores
from ssl_jax.evals.windows import crop, slide, whole
from ssl_jax.objectives.base import Encoder

Array = jax.Array
WARMUP = 1500 / 160_000  # share of the steps, at most
WINDOWS = 4  # windows per device that are predicted at once


@dataclass(frozen=True, kw_only=True)
class SegmentationHeads(Protocol):
    """Mean intersection over union, over the classes, of all pixels of the test images at the size
    of their masks.

    Attributes:
      train, test: folders of images and masks, see `scene_folders.scene_pairs`; without them
        nothing is measured.
      head: "linear": a batch norm and a 1x1 convolution; "fcn": two 3x3 convolutions before it;
        "upernet": pyramid pooling of the last map and a top-down path over four.
      stages: stages whose maps the head reads, in order; by default the last one, and for UPerNet
        four at equal distances. Maps of one size are scaled by 4, 2, 1 and 1/2 for it.
      channels: number of channels of the head's convolutions.
      size: side of the crops and windows; the shorter side of test images.
      stride: pixels between windows; 0 is two thirds of `size`.
      scales: factors of the size of the test images, over which probabilities are averaged.
      reduce_zero_label: 0 is no class, and the classes are counted from 1 (ADE20K).
      steps, batch_size, lr, weight_decay: settings of the training by AdamW, with a linear
        warmup and a linear decay.
      seed: seed of the crops and of the initial weights.
      patch: side of the patches that raw pixels are split into.
    """

    scores: ClassVar[tuple[str, ...]] = ("segmentation_heads",)
    decides: ClassVar[tuple[str, ...]] = ("segmentation_heads_miou",)
    labels: ClassVar[bool] = False
    of_pixels: ClassVar[tuple[str, ...]] = ("patch",)
    needs: ClassVar[str] = "folders of images and masks (train, test)"

    train: str = ""
    test: str = ""
    head: Kind = "upernet"
    stages: tuple[Integer, ...] = ()
    channels: Count = 512
    size: Count = 512
    stride: Whole = 0
    scales: tuple[Positive, ...] = (1.0,)
    reduce_zero_label: bool = False
    steps: Count = 40_000
    batch_size: Count = 16
    lr: Positive = 1e-3
    weight_decay: NonNegative = 0.05
    seed: Seed = 0
    patch: Count = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.train) != bool(self.test):
            raise UserError("segmentation_heads: give both folders, train and test")
        if not self.scales:
            raise UserError("segmentation_heads: give scales")
        if self.stride > self.size:
            raise UserError(f"segmentation_heads: stride = {self.stride} leaves gaps; size is less")

    def applies(self, subject: Subject) -> bool:
        """Return whether it has images with masks; raw pixels are measured too."""
        return bool(self.train)

    def unused(self) -> dict[str, str]:
        if self.head != "linear":
            return {}
        return {"channels": "a linear head has no convolutions of its own; set head=fcn"}

    def measure(self, subject: Subject) -> dict[str, float]:
        images = subject.images
        options = images.channels, self.reduce_zero_label, images.train.source.value_range
        train, test = (Scenes.of(folder, self.size, *options) for folder in (self.train, self.test))
        classes = max(train.num_classes(), test.num_classes())
        layer = Layer(images.view, self._stages(subject), self.patch)
        head = Head(self.head, layer.widths(subject, self.size), self.channels, classes)
        training = HeadTraining(
            *(self.steps, self.batch_size, self.lr, self.weight_decay, self.seed),
            warmup=WARMUP,
            decay="linear",
        )

        def sample(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
            return crop(train, int(rng.integers(len(train.files))), rng)

        weights = fit(subject, head, layer, sample, _loss, training)
        counts = self._confusion(subject, test, head, layer, weights)
        return {f"segmentation_heads_{name}": value for name, value in scores(counts).items()}

    def _stages(self, subject: Subject) -> tuple[int, ...]:
        """Return the stages to read; raw pixels have one."""
        if subject.encoder is None:
            return (-1,) * (4 if self.head == "upernet" else 1)
        if self.stages:
            return self.stages
        if self.head != "upernet":
            return (-1,)
        images = subject.images
        shape = (images.mesh.size, *images.view.sides, images.channels)
        pictures = jax.ShapeDtypeStruct(shape, np.float32)
        count = len(jax.eval_shape(Encoder.features, subject.encoder, pictures).stages)
        return tuple(max(count * i // 4 - 1, 0) for i in (1, 2, 3, 4))

    def _confusion(
        self, subject: Subject, test: Scenes, head: Head, layer: Layer, weights: Any
    ) -> np.ndarray:
        """Count the pixels (C, C) per true and predicted class."""
        mesh, classes = subject.images.mesh, head.classes
        batch, placed = WINDOWS * mesh.size, sharding.batch_sharding(mesh)
        mine = sharding.local_rows(mesh, batch)
        weights = place(weights, sharding.replicated(mesh))

        def predict(pixels: np.ndarray) -> np.ndarray:
            inputs = to_global(pixels[mine], placed)
            return gather(_predict(weights, subject.encoder, inputs, head, layer))  # type: ignore[no-any-return]

        stride = self.stride or max(2 * self.size // 3, 1)
        counts = np.zeros((classes, classes), np.int64)
        for row in range(len(test.files)):
            distributed.tick()
            mask = test.native(row)
            total = np.zeros((*mask.shape, classes), np.float32)
            for scale in self.scales:
                image = whole(test, row, scale)
                probabilities = slide(predict, image, self.size, stride, classes, batch)
                total += _to_size(probabilities, *mask.shape)
            scored = mask != IGNORED
            pairs = mask[scored].astype(np.int64) * classes + total.argmax(-1)[scored]
            counts += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
        return counts


def _to_size(probabilities: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (h, w, C) bilinearly to (height, width, C)."""
    shape = (height, width, probabilities.shape[-1])
    if probabilities.shape == shape:
        return probabilities
    return np.asarray(jax.image.resize(probabilities, shape, "linear", antialias=False))


def _loss(logits: Array, masks: Array, real: Array) -> Array:
    """Return the mean cross-entropy of the pixels that have a class."""
    scored = (masks != IGNORED) & real[:, None, None]
    logits = jax.image.resize(logits, (*masks.shape, logits.shape[-1]), "linear")
    labels = jnp.where(scored, masks, 0).astype(jnp.int32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.sum(losses, where=scored) / jnp.maximum(jnp.sum(scored), 1)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _predict(
    weights: Any, encoder: Encoder | None, images: Array, head: Head, layer: Layer
) -> Array:
    """Return probabilities (B, size, size, C)."""
    logits = logits_of(weights, encoder, images, head, layer)
    shape = (*images.shape[:3], logits.shape[-1])
    return jax.nn.softmax(jax.image.resize(logits, shape, "linear"), axis=-1)
