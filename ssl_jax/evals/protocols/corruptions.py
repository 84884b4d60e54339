"""Robustness: a classifier of clean images, tested on corrupted ones (ImageNet-C, 1903.12261).

The corruptions are read from folders, as ImageNet-C's, or made: the fifteen of the library
imagecorruptions-imaug (the extra `robustness`).
"""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Literal

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Size
from ssl_jax.core.ranges import Count, Range
from ssl_jax.data.decode import resize
from ssl_jax.evals import features
from ssl_jax.evals.base import AtLayer, Subject
from ssl_jax.evals.classifiers import Kind, trained
from ssl_jax.evals.corrupted_sets import (
    ALEXNET,
    ALEXNET_CLEAN,
    CLEAN,
    SEVERITIES,
    check_complete,
    open_corrupted,
    summary,
)
from ssl_jax.evals.scores import best_classes
from ssl_jax.evals.shifted_sets import ShiftedSet

IMAGENET = 1000  # classes
CORRUPTIONS = tuple(ALEXNET)
LEAST = 32  # least side of the library, in pixels
_SEEDED = ("glass_blur", "impulse_noise")  # seeded by an argument, not by NumPy's global state
Batches = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Corruptions(AtLayer):
    """Errors of a classifier on corrupted test images.

    The numbers are the mean per corruption over the severities, the mean of those, and their means
    relative to a baseline: see `corrupted_sets.summary`. Without `data` the evaluation images are
    corrupted, each as a function of its index.

    Attributes:
      data: folder of corrupted images, CORRUPTION/SEVERITY/CLASS/, as ImageNet-C's;
        "shifted_digits" are those of `data.sources.shifted_digits`, without a download.
      classifier: classifier trained on the clean images; see `classifiers.trained`.
      baseline: "pixels" is the same classifier on raw pixels; "alexnet" are the published errors on
        ImageNet's classes, which need its fifteen corruptions at five severities; those that
        AlexNet has no published error for (ImageNet-C's `extra`) are not averaged then.
      examples: most images of each severity, drawn evenly over their labels.
      size: images of a smaller view are corrupted at this side and then shrunk, images of a larger
        view at their own; at least 32.
    """

    data: str = ""
    classifier: Kind = "linear"
    baseline: Literal["pixels", "alexnet"] = "pixels"
    examples: Count = 500
    size: Annotated[int, Range(LEAST)] = LEAST

    def unused(self) -> Mapping[str, str]:
        return {"size": f"the images of {self.data} are corrupted already"} if self.data else {}

    def check(self, subject: Subject) -> None:
        super().check(subject)
        if not self.data and LEAST < self.size < (side := subject.images.view.side):
            raise UserError(
                f"corruptions.size: {self.size} would change nothing: images of {side} pixels are "
                "corrupted at their own size"
            )
        if self.baseline == "alexnet" and subject.classes != IMAGENET:
            raise UserError(
                f"corruptions: AlexNet's errors are for ImageNet's {IMAGENET} classes, these data "
                f"have {subject.classes}; use baseline=pixels"
            )
        if self.data:
            sets = open_corrupted(self.data, subject.class_names)
            if self.baseline == "alexnet":
                check_complete(sets)

    def measure(self, subject: Subject) -> dict[str, float]:
        if not self.data:
            library()  # fails at once if it is missing
        subjects, images = [subject], subject.images
        if self.baseline == "pixels" and subject.encoder is not None:
            subjects.append(Subject(None, images, subject.probe))
        part = images.some(self.examples)
        errors = [{CLEAN: self._error_of(s, images.batches(part))} for s in subjects]
        for kind, of_severities in self._of_sets(subjects) if self.data else self._made(subjects):
            for row, mean in zip(errors, np.mean(of_severities, axis=0), strict=True):
                row[kind] = float(mean)
        if self.baseline == "alexnet":
            errors.append({CLEAN: ALEXNET_CLEAN} | ALEXNET)
        return summary(errors[0], errors[-1])

    def _of_sets(self, subjects: Sequence[Subject]) -> Iterator[tuple[str, list[list[float]]]]:
        """Yield each corruption of `data` with the errors by severity and subject."""
        for kind, of in open_corrupted(self.data, subjects[0].class_names).items():
            yield kind, [[self._error_on(s, shifted) for s in subjects] for shifted in of.values()]

    def _made(self, subjects: Sequence[Subject]) -> Iterator[tuple[str, list[list[float]]]]:
        """Yield the same for the evaluation images, corrupted here."""
        images = subjects[0].images
        clean = list(images.batches(images.some(self.examples)))
        for kind in CORRUPTIONS:
            versions = (corrupt_batches(clean, kind, s, self.size) for s in SEVERITIES)
            yield kind, [[self._error_of(s, batches) for s in subjects] for batches in versions]

    def _error_on(self, subject: Subject, shifted: ShiftedSet) -> float:
        rows, labels = shifted.read(subject, subject.probe_of(self), self.examples)
        return self._error(subject, rows, labels)

    def _error_of(self, subject: Subject, batches: features.Batches) -> float:
        """Return the error on batches of evaluation images."""
        images = subject.images
        shrunk = ((_at(subject.side, b), index) for b, index in batches)
        probes = [subject.probe_of(self)]
        arrays, index = features.extract(subject.encoder, images.view, probes, shrunk, images.mesh)
        ((rows, labels),) = images.labelled_rows(images.test, arrays, index)
        return self._error(subject, rows, labels)

    def _error(self, subject: Subject, rows: np.ndarray, labels: np.ndarray) -> float:
        """Return the share of features (N, D) that are classified wrongly."""
        scores = trained(self.classifier, self, subject).possible(rows)
        return float(np.mean(best_classes(scores, 1)[:, 0] != labels))


def corrupt_batches(batches: Batches, kind: str, severity: int, size: int = LEAST) -> Batches:
    """Apply `corrupt` to all images of the batches (images, index)."""
    return [
        (np.stack([corrupt(x, kind, severity, i, size) for x, i in zip(*b, strict=True)]), b[1])
        for b in batches
    ]


def corrupt(
    image: np.ndarray, kind: str, severity: Count, index: Count, size: Count = LEAST
) -> np.ndarray:
    """Corrupt an image as a function of the arguments alone.

    The corruptions are defined for pictures of one or three channels. So an image with another
    number of channels is split into pictures of three channels each, which are corrupted by the
    same draws.

    Args:
      image: (S, S, C) uint8.
      kind: one of `CORRUPTIONS`.
      severity: 1 to 5.
      index: index of the example.
      size: if S is less, the image is enlarged to this side, and then shrunk again.

    Raises:
      UserError: the library is not installed.
    """
    words = [int(index) % 2**32, CORRUPTIONS.index(kind), severity]
    seed = int(np.random.SeedSequence(words).generate_state(1)[0])
    options = {"severity": severity, "corruption_name": kind}
    options |= {"seed": seed} if kind in _SEEDED else {}
    large, bands = resize(image, max(size, len(image))), image.shape[-1]
    pictures = [large[..., at : at + 3] for at in range(0, bands, 3)]
    if pictures[-1].shape[-1] == 2:  # no picture has two channels
        pictures[-1:] = [pictures[-1][..., :1], pictures[-1][..., 1:]]
    before, corrupted_pictures = np.random.get_state(), []
    try:
        for picture in pictures:
            np.random.seed(seed)
            result = library().corrupt(np.ascontiguousarray(picture), **options)
            corrupted_pictures.append(result[..., : picture.shape[-1]])
    finally:
        np.random.set_state(before)
    return resize(np.concatenate(corrupted_pictures, axis=-1), len(image))


def _at(size: Size, images: np.ndarray) -> np.ndarray:
    """Resize images (B, H, W, C) to another size."""
    return np.stack([resize(image, size) for image in images])


def library() -> ModuleType:
    """Import the library of corruptions.

    Raises:
      UserError: it is not installed.
    """
    try:
        return importlib.import_module("imagecorruptions")
    except ImportError as e:
        raise UserError(
            f"corruptions: the library is missing ({e}); run pip install -e '.[robustness]' in "
            "your clone of ssl_jax"
        ) from None
