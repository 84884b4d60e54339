"""Semantic segmentation of whole images by a head on frozen maps: random crops for training,
sliding windows for testing (the protocols of BEiT, iBOT and PixPro, with a frozen network).
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np

from ssl_jax.core import distributed, sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.placement import gather, place, to_global
from ssl_jax.core.ranges import Count, Integer, NonNegative, Positive, Whole
from ssl_jax.data.masks import IGNORED, Scenes
from ssl_jax.evals.base import Subject
from ssl_jax.evals.dense import DenseProtocol, spread_stages
from ssl_jax.evals.dense_heads import Head, Kind
from ssl_jax.evals.dense_training import Layer, fit, logits_of
from ssl_jax.evals.protocols.segmentation import pixel_loss, scores
from ssl_jax.evals.windows import crop, slide, whole
from ssl_jax.objectives.base import Encoder

Array = jax.Array
WARMUP = 1500 / 160_000  # share of the steps, at most
WINDOWS = 4  # windows per device that are predicted at once


@dataclass(frozen=True, kw_only=True)
class SegmentationHeads(DenseProtocol):
    """Mean intersection over union, over the classes, of all pixels of the test images at the size
    of their masks.

    AdamW has a linear warmup and a linear decay.

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
    """

    titles: ClassVar[Mapping[str, str]] = {
        "segmentation_heads_miou": "segmentation by a head, mIoU",
        "segmentation_heads_pixel_accuracy": "segmentation by a head, accuracy of pixels",
    }
    scores: ClassVar[tuple[str, ...]] = ("segmentation_heads",)
    decides: ClassVar[tuple[str, ...]] = ("segmentation_heads_miou",)
    needs: ClassVar[str] = "folders of images and masks (train, test)"

    head: Kind = "upernet"
    stages: tuple[Integer, ...] = ()
    channels: Count = 512
    stride: Whole = 0
    scales: tuple[Positive, ...] = (1.0,)
    reduce_zero_label: bool = False
    weight_decay: NonNegative = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scales:
            raise UserError("segmentation_heads: give scales")
        if self.stride > self.size:
            raise UserError(f"segmentation_heads: stride = {self.stride} leaves gaps; size is less")

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

        def sample(rng: np.random.Generator, _: int) -> tuple[np.ndarray, np.ndarray]:
            return crop(train, int(rng.integers(len(train.files))), rng)

        training = self.training(WARMUP, "linear")
        weights = fit(subject, head, layer, sample, pixel_loss, training)
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
        return spread_stages(subject)

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


@functools.partial(jax.jit, static_argnums=(3, 4))
def _predict(
    weights: Any, encoder: Encoder | None, images: Array, head: Head, layer: Layer
) -> Array:
    """Return probabilities (B, size, size, C)."""
    logits = logits_of(weights, encoder, images, head, layer)
    shape = (*images.shape[:3], logits.shape[-1])
    return jax.nn.softmax(jax.image.resize(logits, shape, "linear"), axis=-1)
