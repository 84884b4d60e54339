"""Objects from frozen patch features without boxes: a linear classifier predicts for each patch
whether it lies in an object, and in one of which classes.

It needs no detector, so dense quality can be followed during training on any devices.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssl_jax.core import sharding
from ssl_jax.core.placement import place
from ssl_jax.core.ranges import Count, Integer, NonNegative
from ssl_jax.data.boxes import BoxedImages, Objects
from ssl_jax.data.copies import sample as sample_rows
from ssl_jax.data.decode import averaged
from ssl_jax.data.masks import read_image
from ssl_jax.data.pipeline import local_part
from ssl_jax.evals import features
from ssl_jax.evals.average_precision import average_precision, mean_average_precision
from ssl_jax.evals.base import Subject
from ssl_jax.evals.checks import NotMeasurable
from ssl_jax.evals.dense import DenseProtocol
from ssl_jax.evals.dense_heads import Head
from ssl_jax.evals.dense_training import Layer, fit, logits_of
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@dataclass(frozen=True, kw_only=True)
class BoxPatches(DenseProtocol):
    """Average precision of patches that a linear classifier finds in the boxes of objects.

    The classifier is a batch norm and a 1x1 convolution with a sigmoid per class and one for any
    object; a patch is in a box if its centre is. Patches that are only in ignored boxes (crowds,
    difficult objects) are left out. AdamW has a tenth of the steps for the warmup and then half a
    cosine; half of the images are mirrored.

    Attributes:
      train, test: data sets with boxes, `coco:ROOT` or `voc:ROOT`; without `test` it is the
        held-out part of `train`, and without `train` nothing is measured.
      size: whole images are resized to squares of this side.
      stage: stage of the backbone; -1 is the last.
      max_images: most images of each set.
    """

    scores: ClassVar[tuple[str, ...]] = ("box_patches_object", "box_patches_map")
    decides: ClassVar[tuple[str, ...]] = ("box_patches_map",)
    titles: ClassVar[Mapping[str, str]] = {
        "box_patches_object": "Box patches, AP of any object",
        "box_patches_map": "Box patches, mAP",
        "box_patches_share": "Box patches, share in objects (AP of random scores)",
    }
    both: ClassVar[bool] = False
    needs: ClassVar[str] = "images with boxes (train=coco:ROOT or voc:ROOT)"

    size: Count = 224
    stage: Integer = -1
    max_images: Count = 1000
    steps: Count = 1000
    weight_decay: NonNegative = 1e-4

    def unused(self) -> Mapping[str, str]:
        return {} if self.train else {"test": "there is no train"}

    def measure(self, subject: Subject) -> dict[str, float]:
        images = subject.images
        train, test = BoxedImages.pair(self.train, self.test)
        layer = Layer(images.view, (self.stage,), self.patch)
        (shape,) = layer.shapes(subject, self.size)
        grid = shape[:2]
        head = Head("linear", shape[2:], 0, 1 + len(train.classes))
        options = images.channels, images.train.source.value_range

        def read(part: BoxedImages, row: int) -> tuple[np.ndarray, np.ndarray]:
            pixels = read_image(part.files[row], *options)
            targets = patch_targets(part.objects[row], pixels.shape[:2], grid, len(part.classes))
            return averaged(pixels, self.size, self.size), targets

        rows = sample_rows(np.zeros(len(train.files)), self.max_images)

        def sample(rng: np.random.Generator, _: int) -> tuple[np.ndarray, np.ndarray]:
            image, targets = read(train, int(rng.choice(rows)))
            return (image[:, ::-1], targets[:, ::-1]) if rng.random() < 0.5 else (image, targets)

        weights = fit(subject, head, layer, sample, sigmoid_loss, self.training(0.1))
        weights = place(weights, sharding.replicated(images.mesh))
        tested = sample_rows(np.zeros(len(test.files)), self.max_images)
        batch = min(images.batch_size, len(tested))
        batch += -batch % images.mesh.size
        mine = sharding.local_rows(images.mesh, batch)

        def pixels_of(row: int) -> np.ndarray:
            if row < 0:  # padding
                return np.zeros((self.size, self.size, images.channels), np.uint8)
            return averaged(read_image(test.files[row], *options), self.size, self.size)

        local = local_part(tested, batch, mine).reshape(-1, len(mine))
        batches = ((np.stack([pixels_of(row) for row in some]), some) for some in local)
        logits, index = features.collect(
            lambda x, _: logits_of(weights, subject.encoder, x, head, layer), batches, images.mesh
        )
        targets = np.stack(
            [
                patch_targets(test.objects[row], _sides(test, row, options), grid, head.classes - 1)
                for row in index
            ]
        )
        return precisions(logits.reshape(-1, head.classes), targets.reshape(-1, head.classes))


def _sides(part: BoxedImages, row: int, options: tuple) -> tuple[int, ...]:
    return read_image(part.files[row], *options).shape[:2]


def patch_targets(
    objects: Objects, sides: tuple[int, ...], grid: tuple[int, ...], classes: int
) -> np.ndarray:
    """Return the targets (h, w, 1 + classes) int8 of patches: any object, then each class; 1 in a
    box, 0 outside, and -1 where only ignored boxes are.

    Args:
      sides: height and width of the image in pixels of the boxes.
      grid: (h, w); a patch is in a box if its centre is.
    """
    out = np.zeros((*grid, 1 + classes), np.int8)
    y, x = ((np.arange(n) + 0.5) * side / n for n, side in zip(grid, sides, strict=True))
    order = np.argsort(~objects.ignored, kind="stable")  # the ignored ones first
    for i in order:
        left, top, right, bottom = objects.corners[i]
        inside = np.ix_((y >= top) & (y < bottom), (x >= left) & (x < right))
        for column in (0, 1 + objects.classes[i]):
            values = out[..., column]
            values[inside] = -1 if objects.ignored[i] else 1
    return out


def sigmoid_loss(logits: Array, targets: Array, real: Array) -> Array:
    """Mean binary cross-entropy of the targets (B, h, w, C) that are not -1, over `real` (B,)."""
    counted = (targets >= 0) & real[:, None, None, None]
    losses = optax.sigmoid_binary_cross_entropy(logits, jnp.maximum(targets, 0).astype(jnp.float32))
    return jnp.sum(losses, where=counted) / jnp.maximum(counted.sum(), 1)


def precisions(scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Return the average precision of any object, its mean over the classes, and for comparison the
    share of patches in objects, which is the first of random scores.

    Args:
      scores, targets: (N, 1 + C), see `patch_targets`.

    Raises:
      NotMeasurable: no patch is in an object.
    """
    check_shapes("precisions: scores, targets (N, C)", scores, targets)
    counted = targets[:, 0] >= 0
    objects, own = targets[counted, 0] == 1, scores[counted, 0]
    if not objects.any():
        raise NotMeasurable("box_patches: no evaluation patch is in an object; raise size")
    some = len(np.unique(own)) > 1 and np.isfinite(own).all()
    numbers = mean_average_precision(scores[:, 1:], targets[:, 1:], "box_patches")
    return {
        "box_patches_object": average_precision(own, objects) if some else float("nan"),
        "box_patches_map": numbers["box_patches_map"],
        "box_patches_share": float(objects.mean()),
    }
