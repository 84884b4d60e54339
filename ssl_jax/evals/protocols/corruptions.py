"""Robustness: a classifier of clean images, tested on corrupted ones (ImageNet-C, 1903.12261).

The corruptions are read from folders, as ImageNet-C's, or made: the fifteen of the library
imagecorruptions-imaug (the extra `robustness`).
"""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, ClassVar, Literal

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Size
from ssl_jax.core.ranges import Count, Range
from ssl_jax.data.decode import resize
from ssl_jax.evals import features
from ssl_jax.evals.base import AtLayer, Subject
from ssl_jax.evals.corrupted_sets import (
    ALEXNET,
    ALEXNET_CLEAN,
    SEVERITIES,
    check_complete,
    open_corrupted,
    summary,
)
from ssl_jax.evals.images import Labelled
from ssl_jax.evals.robustness import RobustnessProtocol, predictions
from ssl_jax.evals.shifted_sets import CLEAN, ShiftedSet

IMAGENET = 1000  # classes
CORRUPTIONS = tuple(ALEXNET)
LEAST = 32  # least side of the library, in pixels
_SEEDED = ("glass_blur", "impulse_noise")  # seeded by an argument, not by NumPy's global state
Batches = Sequence[tuple[np.ndarray, np.ndarray]]
Sets = dict[str, dict[int, ShiftedSet]]  # corruption -> severity -> images
Errors = Iterator[tuple[str, list[list[float]]]]  # corruption, its errors by severity and subject


@dataclass(frozen=True, kw_only=True)
class Corruptions(RobustnessProtocol[Sets]):
    """Errors of a classifier on corrupted test images.

    The numbers are the mean per corruption over the severities, the mean of those, and their means
    relative to a baseline: see `corrupted_sets.summary`. Without `data` the evaluation images are
    corrupted, each as a function of its index.

    Attributes:
      data: folder of corrupted images, CORRUPTION/SEVERITY/CLASS/, as ImageNet-C's;
        "shifted_digits" are those of `data.sources.shifted_digits`, without a download.
      baseline: "pixels" is the same classifier on raw pixels; "alexnet" are the published errors on
        ImageNet's classes, which need its fifteen corruptions at five severities; those that
        AlexNet has no published error for (ImageNet-C's `extra`) are not averaged then.
      examples: most images of each severity, drawn evenly over their labels.
      size: images of a smaller view are corrupted at this side and then shrunk, images of a larger
        view at their own; at least 32.
    """

    titles: ClassVar[Mapping[str, str]] = {
        "corruptions_error": "error on corrupted images",
        "corruptions_mce": "error on corrupted images over the baseline's",
        "corruptions_relative_mce": "increase of the error by corruptions over the baseline's",
        f"corruptions_{CLEAN}_error": "error on the same images without corruptions",
        "corruptions_{kind}_error": "error on corrupted images, {kind}",
    }

    data: str = ""
    baseline: Literal["pixels", "alexnet"] = "pixels"
    examples: Count = 500
    size: Annotated[int, Range(LEAST)] = LEAST

    def unused(self) -> Mapping[str, str]:
        return {"size": f"the images of {self.data} are corrupted already"} if self.data else {}

    def applies(self, subject: Subject) -> bool:
        """Return whether there are labels; without `data` the evaluation images are corrupted."""
        return AtLayer.applies(self, subject)

    def check(self, subject: Subject) -> None:
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
        super().check(subject)

    def open(self, subject: Subject) -> Sets:
        """Return the sets of `data`, if it is set."""
        sets = open_corrupted(self.data, subject.class_names) if self.data else {}
        if sets and self.baseline == "alexnet":
            check_complete(sets)
        return sets

    def measure(self, subject: Subject) -> dict[str, float]:
        subjects = [subject]
        if self.baseline == "pixels" and subject.encoder is not None:
            subjects.append(Subject(None, subject.images, subject.probe))
        errors: list[dict[str, float]] = [{} for _ in subjects]
        for kind, of_severities in self._read(subjects) if self.data else self._made(subjects):
            for row, mean in zip(errors, np.mean(of_severities, axis=0), strict=True):
                row[kind] = float(mean)
        if self.baseline == "alexnet":
            errors.append({CLEAN: ALEXNET_CLEAN} | ALEXNET)
        return summary(errors[0], errors[-1])

    def _read(self, subjects: Sequence[Subject]) -> Errors:
        """Yield the errors on the evaluation images, then on those of each corruption of `data`."""
        part = subjects[0].images.some(self.examples)

        def on_clean(subject: Subject) -> float:
            (data,) = subject.labelled_features(part, [subject.probe_of(self)])
            return self._error(subject, data)

        def on(subject: Subject, shifted: ShiftedSet) -> float:
            return error(self.scores_on(subject, shifted, self.examples))

        yield CLEAN, [[on_clean(s) for s in subjects]]
        for kind, of in self.opened(subjects[0]).items():
            yield kind, [[on(s, shifted) for s in subjects] for shifted in of.values()]

    def _made(self, subjects: Sequence[Subject]) -> Errors:
        """Yield the same for the evaluation images, corrupted here."""
        library()  # fails at once if it is missing
        images = subjects[0].images
        clean = list(images.batches(images.some(self.examples)))
        yield CLEAN, [[self._error_of(s, clean) for s in subjects]]
        for kind in CORRUPTIONS:
            versions = (corrupt_batches(clean, kind, s, self.size) for s in SEVERITIES)
            yield kind, [[self._error_of(s, batches) for s in subjects] for batches in versions]

    def _error_of(self, subject: Subject, batches: features.Batches) -> float:
        """Return the error on batches of evaluation images."""
        images = subject.images
        shrunk = ((_at(subject.side, b), index) for b, index in batches)
        probes = [subject.probe_of(self)]
        arrays, index = features.extract(subject.encoder, images.view, probes, shrunk, images.mesh)
        (data,) = images.labelled_rows(images.test, arrays, index)
        return self._error(subject, data)

    def _error(self, subject: Subject, data: Labelled) -> float:
        """Return the error on features (N, D)."""
        return error(Labelled(self.trained(subject).possible(data.features), data.labels))


def error(data: Labelled) -> float:
    """Return the share of rows of scores (N, C) whose best class is wrong."""
    return float(np.mean(predictions(data.features) != data.labels))


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
