"""Robustness: a classifier of clean images, asked about corrupted ones (ImageNet-C, 1903.12261).

The fifteen corruptions are those of the library imagecorruptions-imaug (the extra `robustness`).
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Literal

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, Range
from ssl_jax.data.decode import resize
from ssl_jax.evals.base import AtLayer, Subject
from ssl_jax.evals.protocols.knn import Knn, knn_classes
from ssl_jax.evals.protocols.linear import Linear, fit

# The errors of AlexNet, averaged over the severities (table 1 of the paper, and its release).
ALEXNET = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
ALEXNET_CLEAN = 0.435
IMAGENET = 1000  # classes
CORRUPTIONS = tuple(ALEXNET)
SEVERITIES = (1, 2, 3, 4, 5)
LEAST = 32  # pixels a side, of the library
_SEEDED = ("glass_blur", "impulse_noise")  # by an argument, not by NumPy's global state
Batches = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Corruptions(AtLayer):
    """Errors of a classifier on corrupted test images, each a function of its index.

    Of each corruption the mean over five severities; the mean of those, and their means relative
    to a baseline: see `summary`.

    Attributes:
      classifier: what learns from the clean training images: "linear" is `linear` with its preset
        "lbfgs", "knn" is `knn`, both with their default settings.
      baseline: "pixels" is the same classifier on raw pixels; "alexnet" are the published errors,
        which are of ImageNet's classes.
      examples: test images at the most, evenly over all of them.
      size: images of a smaller view are corrupted at this side and then shrunk; at least 32, those
        of a larger view at their own.
    """

    classifier: Literal["linear", "knn"] = "linear"
    baseline: Literal["pixels", "alexnet"] = "pixels"
    examples: Count = 500
    size: Annotated[int, Range(LEAST)] = LEAST

    def check(self, subject: Subject) -> None:
        super().check(subject)
        if LEAST < self.size < (side := subject.images.view.size):
            raise UserError(
                f"corruptions.size: {self.size} would change nothing: images of {side} pixels are "
                "corrupted at their own size"
            )

    def measure(self, subject: Subject) -> dict[str, float]:
        library()  # says at once that it is missing
        images = subject.images
        if self.baseline == "alexnet" and subject.classes != IMAGENET:
            raise UserError(
                f"corruptions: AlexNet's errors are of ImageNet's {IMAGENET} classes, these data "
                f"have {subject.classes}; use baseline=pixels"
            )
        asked = [self._error(subject)]
        if self.baseline == "pixels":
            pixels = Subject(None, images, subject.probe)
            asked.append(asked[0] if subject.encoder is None else self._error(pixels))
        clean = list(images.batches(images.some(self.examples)))
        errors = [[error(clean)] for error in asked]
        for kind in CORRUPTIONS:
            seen = np.zeros(len(asked))
            for severity in SEVERITIES:
                batches = corrupted(clean, kind, severity, self.size)
                seen += [error(batches) for error in asked]
            for found, mean in zip(errors, seen / len(SEVERITIES), strict=True):
                found.append(float(mean))
        if self.baseline == "alexnet":
            errors.append([ALEXNET_CLEAN, *ALEXNET.values()])
        return summary(errors[0], errors[-1])

    def _error(self, subject: Subject) -> Callable[[Batches], float]:
        """The share of such images that the classifier, made here, gets wrong."""
        train, images = subject.train(self), subject.images
        classify: Callable[[np.ndarray], np.ndarray]
        if self.classifier == "linear":
            (head,) = fit(train, [Linear()], subject.classes, images.mesh)
            classify = head.classes
        else:
            knn = Knn(k=min(Knn.k, len(train.labels)))

            def classify(rows: np.ndarray) -> np.ndarray:
                args = (*train, rows, subject.classes)
                found = knn_classes(*args, [knn.k], [knn.temperature], images.mesh)
                return found[knn.k, knn.temperature]

        def error(batches: Batches) -> float:
            shrunk = ((_at(subject.side, b), index) for b, index in batches)
            found, index = subject.features_of(shrunk, [subject.probe_of(self)])
            (asked,) = images.known(images.test, found, index)
            return float(np.mean(classify(asked.features) != asked.labels))

        return error


def summary(errors: Sequence[float], baseline: Sequence[float]) -> dict[str, float]:
    """The numbers of a classifier from its errors and a baseline's.

    `mce` is the mean of the errors over the baseline's, `relative_mce` the mean of what corruption
    adds to the error, over what it adds to the baseline's, without the corruptions that add nothing
    to that one: in the paper both are times 100.

    Args:
      errors, baseline: (16,), that on clean images and then those of `CORRUPTIONS`.
    """
    clean, *found = errors
    base_clean, *base = baseline
    over = [e / b for e, b in zip(found, base, strict=True) if b > 0]
    added = [
        (e - clean) / (b - base_clean) for e, b in zip(found, base, strict=True) if b > base_clean
    ]
    numbers = {f"corruptions_{kind}_error": e for kind, e in zip(CORRUPTIONS, found, strict=True)}
    numbers |= {"corruptions_clean_error": clean, "corruptions_error": float(np.mean(found))}
    if over:
        numbers["corruptions_mce"] = float(np.mean(over))
    if added:
        numbers["corruptions_relative_mce"] = float(np.mean(added))
    return numbers


def corrupted(batches: Batches, kind: str, severity: int, size: int = LEAST) -> Batches:
    """All images of (images, index), each by `corrupt`."""
    return [
        (np.stack([corrupt(x, kind, severity, i, size) for x, i in zip(*b, strict=True)]), b[1])
        for b in batches
    ]


def corrupt(
    image: np.ndarray, kind: str, severity: Count, index: Count, size: Count = LEAST
) -> np.ndarray:
    """A corrupted image, a function of the arguments alone.

    The corruptions are of pictures. So an image of another number of channels than one or three is
    taken for several pictures, of three channels each, which are corrupted by the same draws.

    Args:
      image: (S, S, C) uint8.
      kind: one of `CORRUPTIONS`.
      severity: 1 to 5.
      index: of the example.
      size: where S is less, the image is enlarged to this side, and then shrunk again.

    Raises:
      UserError: the library is not installed.
    """
    words = [int(index) % 2**32, CORRUPTIONS.index(kind), severity]
    seed = int(np.random.SeedSequence(words).generate_state(1)[0])
    how = {"severity": severity, "corruption_name": kind}
    how |= {"seed": seed} if kind in _SEEDED else {}
    large, bands = resize(image, max(size, len(image))), image.shape[-1]
    pictures = [large[..., at : at + 3] for at in range(0, bands, 3)]
    if pictures[-1].shape[-1] == 2:  # no picture has two channels
        pictures[-1:] = [pictures[-1][..., :1], pictures[-1][..., 1:]]
    before, found = np.random.get_state(), []
    try:
        for picture in pictures:
            np.random.seed(seed)
            made = library().corrupt(np.ascontiguousarray(picture), **how)
            found.append(made[..., : picture.shape[-1]])
    finally:
        np.random.set_state(before)
    return resize(np.concatenate(found, axis=-1), len(image))


def _at(side: int, images: np.ndarray) -> np.ndarray:
    """Images (B, S, S, C) at another side."""
    return np.stack([resize(image, side) for image in images])


def library() -> ModuleType:
    """What makes the corruptions.

    Raises:
      UserError: it is not installed.
    """
    try:
        return importlib.import_module("imagecorruptions")
    except ImportError as e:
        raise UserError(
            f"corruptions need a library ({e}): pip install -e '.[robustness]' in your clone of "
            "ssl_jax"
        ) from None
