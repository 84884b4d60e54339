"""Linear probes before fine-tuning: what the network's frozen features give, and random weights."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.sources import Source
from ssl_jax.embeddings.encoder import ImageEncoder
from ssl_jax.evals.average_precision import mean_average_precision
from ssl_jax.evals.calibration import log_loss
from ssl_jax.evals.checks import check_varied
from ssl_jax.evals.images import Images, Labelled, Part
from ssl_jax.evals.protocols.linear import LinearHead, regularisation_path
from ssl_jax.objectives.base import Encoder
from ssl_jax.run.auto import typical_side
from ssl_jax.run.classifier import Loading, features_of, indicators, numbered, shows_several

PENALTIES = np.logspace(0, -6, 13)  # lambda of `mean cross-entropy + lambda / 2 |W|^2`
USUAL = 1e-4  # without images to choose it by
NEVER = 5.0  # logits by which a class without examples is below the others


@dataclass(frozen=True)
class Sets:
    """Labelled images to learn from, to choose by (None for none), and to test on."""

    train: Source
    holdout: Source | None
    test: Source

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.class_names

    @property
    def several(self) -> bool:
        """True if the images have several labels each."""
        return shows_several(self.train)

    @cached_property
    def side(self) -> int:
        """Typical short side in pixels of the images to learn from."""
        return typical_side(self.train)


class Measured(NamedTuple):
    """Labels (N,), or (N, C) of 0, 1 and -1 (not known), and logits (N, C) of the labelled images
    of a set, and their positions (N,) in it.
    """

    labels: np.ndarray
    logits: np.ndarray
    examples: np.ndarray

    @property
    def guesses(self) -> np.ndarray:
        """The predicted classes (N,)."""
        return self.logits.argmax(1)

    def summary(self) -> dict[str, Any]:
        """Return the number of correct images, of all, and the mean over classes of their share; of
        several labels per image the mean average precision, exact and of 11 points.
        """
        if self.several:
            scores = mean_average_precision(self.logits, self.labels, "test")
            short = {name.removeprefix("test_"): value for name, value in scores.items()}
            return short | {"total": len(self.labels)}
        correct = self.guesses == self.labels
        shares = [correct[self.labels == c].mean() for c in np.unique(self.labels)]
        count = int(correct.sum())
        return {"correct": count, "total": len(correct), "per_class": float(np.mean(shares))}

    @property
    def several(self) -> bool:
        return self.labels.ndim == 2

    @property
    def top1(self) -> float:
        return float(np.mean(self.guesses == self.labels))

    @property
    def score(self) -> dict[str, float]:
        """The number to judge by: "top1", or "map"."""
        return {"map": self.summary()["map"]} if self.several else {"top1": self.top1}

    @property
    def selected(self) -> np.ndarray:
        """The rows (N,) whose label is a known class."""
        if self.several:
            return np.full(len(self.labels), True)
        return self.labels < self.logits.shape[1]

    @property
    def loss(self) -> float:
        """Mean cross-entropy of the labels that are known classes."""
        return log_loss(self.logits[self.selected], self.labels[self.selected])


class LinearProbe(NamedTuple):
    """A linear classifier of frozen features, and its results.

    Attributes:
      kernel, bias: of the head, (D, C) and (C,).
      penalty: chosen on the held-out images.
      holdout: results on them; None without any.
      test: results on the test images.
    """

    kernel: np.ndarray
    bias: np.ndarray
    penalty: float
    holdout: Measured | None
    test: Measured


def labelled_features(
    encoder: ImageEncoder, source: Source, sets: Sets, loading: Loading, what: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features (N, D), labels (N,) or (N, C) and index (N,) of the labelled images of a set.

    Raises:
      UserError: none of them, or features that are not finite or all the same.
    """
    features, index = features_of(encoder, source, loading)
    label = indicators if sets.several else numbered
    labels = label(source, index, sets.classes)
    labelled = (labels >= 0).reshape(len(labels), -1).any(axis=1)
    if not labelled.any():
        raise UserError(f"{source.name}: no {what} image has a label")
    if not np.isfinite(features).all():
        raise UserError(f"{source.name}: the network's features are not finite")
    return features[labelled], labels[labelled], index[labelled]


def with_statistics(encoder: ImageEncoder, sets: Sets, loading: Loading) -> ImageEncoder:
    """Return a network with random weights with the batch statistics of the training images."""
    part = Part(sets.train, np.arange(len(sets.train)))
    images = Images(
        encoder.view, encoder.channels, loading.batch_size, loading.mesh, train=part, test=part
    )
    bare: Encoder = images.with_statistics(encoder)
    return dataclasses.replace(encoder, stats=bare.stats)


def linear_probe(encoder: ImageEncoder, sets: Sets, loading: Loading) -> LinearProbe:
    """Fit logistic regression to the features of the training images; the penalty is the one of
    `PENALTIES` with the lowest cross-entropy on the held-out images.

    Raises:
      UserError: features that are all the same, or labels of one class only.
    """
    features, labels, _ = labelled_features(encoder, sets.train, sets, loading, "training")
    check_varied(features, "features")
    if sets.several and not (np.any(labels == 1, axis=0) & np.any(labels == 0, axis=0)).any():
        raise UserError(
            f"{sets.train.name}: every class is shown by all images to learn from or by none; add "
            "labelled images"
        )
    if not sets.several and len(np.unique(labels)) < 2:
        raise UserError(
            f"{sets.train.name}: the images to learn from are of one class only; add labelled "
            "images of the others"
        )
    train = Labelled(features, labels)
    count = len(sets.classes)
    penalties = PENALTIES if sets.holdout is not None else np.array([USUAL])
    inverse = 1 / (penalties * len(labels))
    heads = [_finite(h) for h in regularisation_path(train, inverse.tolist(), count)]
    best, holdout = 0, None
    if sets.holdout is not None:
        held = labelled_features(encoder, sets.holdout, sets, loading, "held-out")
        every = [_measured(head, *held) for head in heads]
        best = int(np.argmin([measured.loss for measured in every]))
        holdout = every[best]
    test = labelled_features(encoder, sets.test, sets, loading, "test")
    head = heads[best]
    return LinearProbe(
        head.weight, head.bias, float(penalties[best]), holdout, _measured(head, *test)
    )


def _measured(
    head: LinearHead, features: np.ndarray, labels: np.ndarray, index: np.ndarray
) -> Measured:
    return Measured(labels, features @ head.weight + head.bias, index)


def _finite(head: LinearHead) -> LinearHead:
    """Replace the bias -inf of a class without examples, with which training could not start."""
    trained = np.isfinite(head.bias)
    bias = np.where(trained, head.bias, head.bias[trained].min() - NEVER)
    return LinearHead(head.weight.astype(np.float32), bias.astype(np.float32))
