"""What single patches know: a linear classifier of patch features, without what is around them in
the network's output.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.core.ranges import Count, Integer
from ssl_jax.data.copies import sample
from ssl_jax.data.masks import IGNORED, Scenes
from ssl_jax.data.pipeline import local_part
from ssl_jax.evals import features
from ssl_jax.evals.base import Part, Protocol, Subject
from ssl_jax.evals.checks import NotMeasurable, check_varied
from ssl_jax.objectives.base import Encoder

Array = jax.Array


@dataclass(frozen=True, kw_only=True)
class Patches(Protocol):
    """Accuracy of logistic regression on the features of single patches, some of each image.

    With masks it says the class that most of a patch's pixels have; with labels, the image's.

    Attributes:
      train, test: folders with images/NAME.jpg and masks/NAME.png of class numbers, 255 for none;
        without them the run's own images and labels are taken.
      size: whole images with masks are resized to squares of this side.
      stage: of the backbone; -1 is the last.
      reduce_zero_label: 0 is no class, and the classes are counted from 1 (ADE20K).
      per_image: so many patches of each image, drawn at random.
      max_images: of each set, at most.
      patch: side of the patches that raw pixels are measured by.
    """

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
            raise UserError("patches: name both folders, train and test")

    def unused(self) -> Mapping[str, str]:
        if self.train:
            return {}
        return dict.fromkeys(("size", "reduce_zero_label"), "there are no masks; give train, test")

    def applies(self, subject: Subject) -> bool:
        """Whether there are masks, or labels."""
        return bool(self.train) or subject.labelled

    def check(self, subject: Subject) -> None:
        if not self.train:  # masks have classes of their own
            super().check(subject)

    def measure(self, subject: Subject) -> dict[str, float]:
        if self.train:
            x, labels = self.of_masks(subject, self.train)
            asked, true = self.of_masks(subject, self.test)
            found, classes = probabilities(x, labels, asked)
            return {"patches_top1": accuracy(found, classes, true)}
        x, labels = self.of_labels(subject, subject.images.train)
        asked, true = self.of_labels(subject, subject.images.test)
        count = x.shape[1]
        found, classes = probabilities(_flat(x), labels.repeat(count), _flat(asked))
        votes = found.reshape(len(true), count, -1).mean(1)
        return {
            "patches_top1": accuracy(found, classes, true.repeat(count)),
            "patches_vote_top1": accuracy(votes, classes, true),
        }

    def of_labels(self, subject: Subject, part: Part) -> tuple[np.ndarray, np.ndarray]:
        """Features (N, P, D) and labels (N,) of images that have one."""
        (x, _), index = self.drawn(subject, subject.images.batches(part.some(self.max_images)))
        ((features, labels),) = subject.images.known(part, [x], index)
        check_varied(features, subject.what)
        return features, labels

    def of_masks(self, subject: Subject, folder: str) -> tuple[np.ndarray, np.ndarray]:
        """Features (M, D) of patches and the class of most of each one's pixels, where most have
        one.
        """
        images = subject.images
        how = images.channels, self.reduce_zero_label, images.train.source.value_range
        scenes = Scenes.of(folder, self.size, *how)
        rows = sample(np.zeros(len(scenes.files)), self.max_images)
        batch = min(images.batch_size, len(rows))
        batch += -batch % images.mesh.size
        mine = sharding.local_rows(images.mesh, batch)
        local = local_part(rows, batch, mine).reshape(-1, len(mine))
        (x, places), index = self.drawn(subject, ((scenes.read(some)[0], some) for some in local))
        one, _ = scenes.read(rows[:1])
        maps = jax.eval_shape(
            lambda net: features.maps(net, *self.layer(subject), one), subject.encoder
        )
        of = [majority(scenes.mask(row), maps.shape[1:3]).ravel() for row in index]
        labels = np.concatenate([classes[p] for classes, p in zip(of, places, strict=True)])
        return _flat(x)[labels != IGNORED], labels[labels != IGNORED]

    def layer(self, subject: Subject) -> tuple[View, int, int]:
        """Where features are read; see `features.maps`."""
        return subject.images.view, self.stage, self.patch

    def drawn(
        self, subject: Subject, batches: features.Batches
    ) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        """((features (N, P, D), places (N, P) in the row-major grid), index (N,)) of images."""

        def some(images: Array, index: Array) -> tuple[Array, Array]:
            return _some(subject.encoder, self.layer(subject), self, images, index)

        return features.collect(some, batches, subject.images.mesh)


def majority(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """(h, w) the class that most pixels of each cell of a mask (H, W) have; the lower of two."""
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
    """Probabilities (M, C) of the test rows and the classes (C,) that they are of: standardised
    features, logistic regression with C = 1.

    Raises:
      UserError: labels of fewer than two classes.
    """
    if len(np.unique(labels)) < 2:
        raise NotMeasurable("patches: the training patches need two classes or more")
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))
    return model.fit(train, labels).predict_proba(test), model.classes_


def accuracy(found: np.ndarray, classes: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows whose most probable class is right."""
    return float(np.mean(classes[found.argmax(1)] == labels))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _some(
    encoder: Encoder | None, layer: tuple[View, int, int], how: Patches, images: Array, index: Array
) -> tuple[Array, Array]:
    x = features.maps(encoder, *layer, images)
    x = x.reshape(len(x), -1, x.shape[-1])
    patches = x.shape[1]
    count = how.at_most("per_image", patches, "patches of an image")

    def draw(row: Array) -> Array:
        key = jax.random.fold_in(jax.random.key(0), row)
        return jax.random.permutation(key, patches)[:count]

    places = jax.vmap(draw)(index)
    return jnp.take_along_axis(x, places[:, :, None], axis=1), places


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1, x.shape[-1])
