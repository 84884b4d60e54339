"""Robustness: a classifier of clean images, tested on corrupted ones (ImageNet-C, 1903.12261).

The fifteen corruptions are those of the library imagecorruptions-imaug (the extra `robustness`).
"""

import importlib
from collections.abc import Callable, Sequence
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
LEAST = 32  # least side of the library, in pixels
_SEEDED = ("glass_blur", "impulse_noise")  # seeded by an argument, not by NumPy's global state
Batches = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Corruptions(AtLayer):
    """Errors of a classifier on corrupted test images, each a function of its index.

    The numbers are the mean per corruption over five severities, the mean of those, and their means
    relative to a baseline: see `summary`.

    Attributes:
      classifier: classifier trained on the clean images: "linear" is `linear` with its preset
        "lbfgs", "knn" is `knn`, both with their default settings.
      baseline: "pixels" is the same classifier on raw pixels; "alexnet" are the published errors on
        ImageNet's classes.
      examples: most test images, drawn evenly over their labels.
      size: images of a smaller view are corrupted at this side and then shrunk, images of a larger
        view at their own; at least 32.
    """

    classifier: Literal["linear", "knn"] = "linear"
    baseline: Literal["pixels", "alexnet"] = "pixels"
    examples: Count = 500
    size: Annotated[int, Range(LEAST)] = LEAST

    def check(self, subject: Subject) -> None:
        super().check(subject)
        if LEAST < self.size < (side := subject.images.view.side):
            raise UserError(
                f"corruptions.size: {self.size} would change nothing: images of {side} pixels are "
                "corrupted at their own size"
            )

    def measure(self, subject: Subject) -> dict[str, float]:
        library()  # fails at once if it is missing
        images = subject.images
        if self.baseline == "alexnet" and subject.classes != IMAGENET:
            raise UserError(
                f"corruptions: AlexNet's errors are for ImageNet's {IMAGENET} classes, these data "
                f"have {subject.classes}; use baseline=pixels"
            )
        error_fns = [self._error(subject)]
        if self.baseline == "pixels":
            pixels = Subject(None, images, subject.probe)
            error_fns.append(error_fns[0] if subject.encoder is None else self._error(pixels))
        clean = list(images.batches(images.some(self.examples)))
        errors = [[error(clean)] for error in error_fns]
        for kind in CORRUPTIONS:
            totals = np.zeros(len(error_fns))
            for severity in SEVERITIES:
                batches = corrupt_batches(clean, kind, severity, self.size)
                totals += [error(batches) for error in error_fns]
            for row, mean in zip(errors, totals / len(SEVERITIES), strict=True):
                row.append(float(mean))
        if self.baseline == "alexnet":
            errors.append([ALEXNET_CLEAN, *ALEXNET.values()])
        return summary(errors[0], errors[-1])

    def _error(self, subject: Subject) -> Callable[[Batches], float]:
        """Train the classifier; return its error, the share of images classified wrongly."""
        train, images = subject.train(self), subject.images
        classify: Callable[[np.ndarray], np.ndarray]
        if self.classifier == "linear":
            (head,) = fit(train, [Linear()], subject.classes, images.mesh)
            classify = head.classes
        else:
            knn = Knn(k=min(Knn.k, len(train.labels)))

            def classify(rows: np.ndarray) -> np.ndarray:
                args = (*train, rows, subject.classes)
                classes = knn_classes(*args, [knn.k], [knn.temperature], images.mesh)
                return classes[knn.k, knn.temperature]

        def error(batches: Batches) -> float:
            shrunk = ((_at(subject.side, b), index) for b, index in batches)
            probes = [subject.probe_of(self)]
            arrays, index = features.extract(
                subject.encoder, images.view, probes, shrunk, images.mesh
            )
            (test,) = images.labelled_rows(images.test, arrays, index)
            return float(np.mean(classify(test.features) != test.labels))

        return error


def summary(errors: Sequence[float], baseline: Sequence[float]) -> dict[str, float]:
    """Compute the numbers of a classifier from its errors and a baseline's.

    `mce` is the mean ratio of the errors to the baseline's. `relative_mce` is the mean ratio of the
    increases of the error by corruption to the baseline's increases, without the corruptions that
    do not increase the baseline's error. The paper multiplies both by 100.

    Args:
      errors, baseline: (16,), on clean images and then on those of `CORRUPTIONS`.
    """
    clean, *errors = errors
    base_clean, *baseline = baseline
    pairs = list(zip(errors, baseline, strict=True))
    ratios = [e / b for e, b in pairs if b > 0]
    increase_ratios = [(e - clean) / (b - base_clean) for e, b in pairs if b > base_clean]
    numbers = {f"corruptions_{kind}_error": e for kind, e in zip(CORRUPTIONS, errors, strict=True)}
    numbers |= {"corruptions_clean_error": clean, "corruptions_error": float(np.mean(errors))}
    if ratios:
        numbers["corruptions_mce"] = float(np.mean(ratios))
    if increase_ratios:
        numbers["corruptions_relative_mce"] = float(np.mean(increase_ratios))
    return numbers


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
