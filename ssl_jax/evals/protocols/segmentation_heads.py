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
from ssl_jax.core.inputs import View
from ssl_jax.core.placement import gather, place, to_global
from ssl_jax.core.ranges import Count, Integer, NonNegative, Positive, Seed, Whole
from ssl_jax.data.masks import IGNORED, Scenes
from ssl_jax.evals import features
from ssl_jax.evals.base import Protocol, Subject
from ssl_jax.evals.checks import NotMeasurable
from ssl_jax.evals.dense_heads import Head, Kind
from ssl_jax.evals.protocols.segmentation import scores
from ssl_jax.evals.windows import crop, slide, whole
from ssl_jax.objectives.base import Encoder

Array = jax.Array
Layer = tuple[View, tuple[int, ...], int]  # view, stages, patch of `features.maps`
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
      channels: of the head's convolutions.
      size: side of the crops and windows; the shorter side of test images.
      stride: pixels between windows; 0 is two thirds of `size`.
      scales: factors of the size of the test images, over which probabilities are averaged.
      reduce_zero_label: 0 is no class, and the classes are counted from 1 (ADE20K).
      steps, batch_size, lr, weight_decay: of AdamW, with a linear warmup and a linear decay.
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
        layer = images.view, self._stages(subject), self.patch
        example = jnp.zeros((1, self.size, self.size, images.channels), jnp.uint8)
        maps = jax.eval_shape(lambda net: _maps(net, layer, example), subject.encoder)
        head = Head(self.head, tuple(x.shape[-1] for x in maps), self.channels, classes)
        params, stats = self._fit(subject, train, head, layer)
        if not all(np.isfinite(x).all() for x in jax.tree.leaves((params, stats))):
            raise NotMeasurable("segmentation_heads: the head diverged; lower lr")
        counts = self._confusion(subject, test, head, layer, params, stats)
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

    def _fit(self, subject: Subject, train: Scenes, head: Head, layer: Layer) -> tuple[Any, Any]:
        """Train the head on random crops; return its parameters and statistics."""
        mesh = subject.images.mesh
        params, stats = head.init(self.seed)
        state = jax.device_get(self.optimizer().init(params))
        run = place((params, stats, state), sharding.replicated(mesh))
        batch = self.batch_size + -self.batch_size % mesh.size
        mine = sharding.local_rows(mesh, batch)
        placed = sharding.batch_sharding(mesh)
        for step in range(self.steps):
            distributed.tick()
            pixels = np.zeros((len(mine), self.size, self.size, train.channels), np.uint8)
            masks = np.full((len(mine), self.size, self.size), IGNORED, np.uint8)
            for spot, place_in_batch in enumerate(mine):
                if place_in_batch < self.batch_size:
                    rng = np.random.default_rng([self.seed, step, int(place_in_batch)])
                    row = int(rng.integers(len(train.files)))
                    pixels[spot], masks[spot] = crop(train, row, rng)
            inputs = to_global((pixels, masks), placed)
            run = _step(run, subject.encoder, inputs, head, layer, self)
        params, stats, _ = jax.device_get(run)
        return params, stats

    def optimizer(self) -> optax.GradientTransformation:
        warmup = min(round(WARMUP * self.steps) + 1, self.steps)
        rate = optax.join_schedules(
            [
                optax.linear_schedule(self.lr / warmup, self.lr, warmup),
                optax.linear_schedule(self.lr, 0.0, max(self.steps - warmup, 1)),
            ],
            [warmup],
        )
        return optax.adamw(rate, weight_decay=self.weight_decay)

    def _confusion(
        self, subject: Subject, test: Scenes, head: Head, layer: Layer, params: Any, stats: Any
    ) -> np.ndarray:
        """Count the pixels (C, C) per true and predicted class."""
        mesh, classes = subject.images.mesh, head.classes
        batch, placed = WINDOWS * mesh.size, sharding.batch_sharding(mesh)
        mine = sharding.local_rows(mesh, batch)
        weights = place((params, stats), sharding.replicated(mesh))

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


def _maps(encoder: Encoder | None, layer: Layer, images: Array) -> list[Array]:
    view, stages, patch = layer
    return [features.maps(encoder, view, stage, patch, images) for stage in stages]


@functools.partial(jax.jit, static_argnums=(3, 4, 5), donate_argnums=0)
def _step(
    run: Any,
    encoder: Encoder | None,
    inputs: tuple[Array, Array],
    head: Head,
    layer: Layer,
    settings: SegmentationHeads,
) -> Any:
    params, stats, state = run
    images, masks = inputs
    maps = _maps(encoder, layer, images)
    real = jnp.arange(len(images)) < settings.batch_size
    scored = masks != IGNORED

    def loss(params: Any) -> tuple[Array, Any]:
        logits, fresh = head.apply(params, stats, maps, real)
        logits = jax.image.resize(logits, (*masks.shape, logits.shape[-1]), "linear")
        labels = jnp.where(scored, masks, 0).astype(jnp.int32)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.sum(losses, where=scored) / jnp.maximum(jnp.sum(scored), 1), fresh

    grads, fresh = jax.grad(loss, has_aux=True)(params)
    updates, state = settings.optimizer().update(grads, state, params)
    return optax.apply_updates(params, updates), fresh, state


@functools.partial(jax.jit, static_argnums=(3, 4))
def _predict(
    weights: Any, encoder: Encoder | None, images: Array, head: Head, layer: Layer
) -> Array:
    """Return probabilities (B, size, size, C)."""
    logits, _ = head.apply(*weights, _maps(encoder, layer, images), None)
    shape = (*images.shape[:3], logits.shape[-1])
    return jax.nn.softmax(jax.image.resize(logits, shape, "linear"), axis=-1)
