"""Classification of single patches: a linear classifier of patch features, without the neighbouring
patches in the network's output.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.preprocessing import StandardScaler

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.core.ranges import Count, Integer
from ssl_jax.data.copies import sample
from ssl_jax.data.masks import IGNORED, Scenes
from ssl_jax.data.pipeline import local_part
from ssl_jax.evals import features
from ssl_jax.evals.base import Protocol, Subject
from ssl_jax.evals.checks import check_several, check_varied
from ssl_jax.evals.images import Part
from ssl_jax.evals.linear_head import logistic_regression
from ssl_jax.losses.shapes import check_shapes
from ssl_jax.objectives.base import Encoder

Array = jax.Array


@dataclass(frozen=True, kw_only=True)
class Patches(Protocol):
    """Accuracy of logistic regression on the features of single patches, some of each image.

    With masks it predicts the class of most of a patch's pixels; with labels, the image's class.

    Attributes:
      train, test: folders with images/NAME.jpg and masks/NAME.png of class numbers, 255 for none;
        without them the run's own images and labels are used.
      size: whole images with masks are resized to squares of this side.
      stage: stage of the backbone; -1 is the last.
      reduce_zero_label: 0 is no class, and the classes are counted from 1 (ADE20K).
      per_image: patches per image, drawn at random.
      max_images: most images of each set.
      patch: side of the patches that raw pixels are split into.
    """

    titles: ClassVar[Mapping[str, str]] = {
        "patches_top1": "linear classifier of single patches",
        "patches_vote_top1": "linear classifier of single patches, votes of an image",
    }
    scores: ClassVar[tuple[str, ...]] = ("patches",)
    decides: ClassVar[tuple[str, ...]] = ("patches",)
    of_pixels: ClassVar[tuple[str, ...]] = ("patch",)

    train: str = ""
    test: str = ""
    size: Count = 224
    stage: Integer = -1
    reduce_zero_label: bool = False
    per_image: Count = 16
    max_images: Count = 2000
    patch: Count = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.train) != bool(self.test):
            raise UserError("patches: give both folders, train and test")

    def unused(self) -> Mapping[str, str]:
        if self.train:
            return {}
        return dict.fromkeys(("size", "reduce_zero_label"), "there are no masks; give train, test")

    def applies(self, subject: Subject) -> bool:
        """Return whether there are masks, or labels."""
        return bool(self.train) or subject.labelled

    def check(self, subject: Subject) -> None:
        if not self.train:  # masks have classes of their own
            super().check(subject)

    def measure(self, subject: Subject) -> dict[str, float]:
        if self.train:
            x, labels = self.of_masks(subject, self.train)
            test_x, test_labels = self.of_masks(subject, self.test)
            predictions, classes = probabilities(x, labels, test_x)
            return {"patches_top1": accuracy(predictions, classes, test_labels)}
        x, labels = self.of_labels(subject, subject.images.train)
        test_x, test_labels = self.of_labels(subject, subject.images.test)
        count = x.shape[1]
        predictions, classes = probabilities(_flat(x), labels.repeat(count), _flat(test_x))
        votes = predictions.reshape(len(test_labels), count, -1).mean(1)
        return {
            "patches_top1": accuracy(predictions, classes, test_labels.repeat(count)),
            "patches_vote_top1": accuracy(votes, classes, test_labels),
        }

    def of_labels(self, subject: Subject, part: Part) -> tuple[np.ndarray, np.ndarray]:
        """Read the features (N, P, D) and labels (N,) of the labelled images."""
        (x, _), index = self.sampled_patches(
            subject, subject.images.batches(part.some(self.max_images))
        )
        ((features, labels),) = subject.images.labelled_rows(part, [x], index)
        check_varied(features, subject.what)
        return features, labels

    def of_masks(self, subject: Subject, folder: str) -> tuple[np.ndarray, np.ndarray]:
        """Read the features (M, D) of patches and the class of most pixels of each patch, of those
        where most pixels have a class.
        """
        images = subject.images
        options = images.channels, self.reduce_zero_label, images.train.source.value_range
        scenes = Scenes.of(folder, self.size, *options)
        rows = sample(np.zeros(len(scenes.files)), self.max_images)
        batch = min(images.batch_size, len(rows))
        batch += -batch % images.mesh.size
        mine = sharding.local_rows(images.mesh, batch)
        local = local_part(rows, batch, mine).reshape(-1, len(mine))
        batches = ((scenes.read(batch_rows)[0], batch_rows) for batch_rows in local)
        (x, places), index = self.sampled_patches(subject, batches)
        example, _ = scenes.read(rows[:1])
        maps = jax.eval_shape(
            lambda net: features.maps(net, *self.layer(subject), example), subject.encoder
        )
        grids = [majority(scenes.mask(row), maps.shape[1:3]).ravel() for row in index]
        labels = np.concatenate([grid[p] for grid, p in zip(grids, places, strict=True)])
        return _flat(x)[labels != IGNORED], labels[labels != IGNORED]

    def layer(self, subject: Subject) -> tuple[View, int, int]:
        """Return where features are read; see `features.maps`."""
        return subject.images.view, self.stage, self.patch

    def sampled_patches(
        self, subject: Subject, batches: features.Batches
    ) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        """Return ((features (N, P, D), places (N, P) in the row-major grid), index (N,))."""

        def sample_batch(images: Array, index: Array) -> tuple[Array, Array]:
            return _sample(subject.encoder, self.layer(subject), self, images, index)

        return features.collect(sample_batch, batches, subject.images.mesh)


def majority(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Return the most frequent class (h, w) of each cell of a mask (H, W); ties go to the lower."""
    check_shapes("majority: mask (H, W)", mask)
    h, w = grid
    if mask.shape[0] % h or mask.shape[1] % w:
        raise UserError(f"patches: {h} x {w} patches do not divide a mask of {mask.shape}")
    cells = mask.reshape(h, mask.shape[0] // h, w, mask.shape[1] // w).swapaxes(1, 2)
    values = np.unique(mask)
    counts = [(cells == value).sum((2, 3)) for value in values]
    return values[np.argmax(counts, 0)]


def probabilities(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities (M, C) of the test rows and their classes (C,), by logistic
    regression with C = 1 on standardised features.

    Raises:
      UserError: labels of fewer than two classes.
    """
    check_shapes("probabilities: train (N, D), labels (N), test (M, D)", train, labels, test)
    check_several(labels, "patches")
    scaler = StandardScaler().fit(train)
    model = logistic_regression(scaler.transform(train), labels)
    return model.predict_proba(scaler.transform(test)), model.classes_


def accuracy(predictions: np.ndarray, classes: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of rows whose most probable class is right."""
    check_shapes(
        "accuracy: predictions (M, C), classes (C), labels (M)", predictions, classes, labels
    )
    return float(np.mean(classes[predictions.argmax(1)] == labels))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _sample(
    encoder: Encoder | None,
    layer: tuple[View, int, int],
    settings: Patches,
    images: Array,
    index: Array,
) -> tuple[Array, Array]:
    x = features.maps(encoder, *layer, images)
    x = x.reshape(len(x), -1, x.shape[-1])
    patches = x.shape[1]
    count = settings.at_most("per_image", patches, "patches of an image")

    def draw(row: Array) -> Array:
        key = jax.random.fold_in(jax.random.key(0), row)
        return jax.random.permutation(key, patches)[:count]

    places = jax.vmap(draw)(index)
    return jnp.take_along_axis(x, places[:, :, None], axis=1), places


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1, x.shape[-1])
