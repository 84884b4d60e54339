"""The accuracy of a network's own classifier, for methods that learn the labels."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment.recipes import prepare
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.evals.base import Protocol, Subject
from ssl_jax.evals.features import collect
from ssl_jax.objectives.base import Encoder

Array = jax.Array
GUESSES = 5


@dataclass(frozen=True, kw_only=True)
class OwnClassifier(Protocol):
    """How often the class of a test image is the classifier's first guess, over all images and as
    the mean over classes, and how often it is among the first five, where there are more classes.
    """

    def applies(self, subject: Subject) -> bool:
        encoder = subject.encoder
        return encoder is not None and encoder.classifier is not None and subject.labelled

    def measure(self, subject: Subject) -> dict[str, float]:
        encoder, images = subject.encoder, subject.images
        assert encoder is not None and images.test.source.labels is not None
        found, index = collect(
            lambda pixels, _: guesses(encoder, images.view, pixels),
            images.batches(images.test),
            images.mesh,
        )
        labels = images.test.source.labels[index]
        found, labels = found[labels >= 0], labels[labels >= 0]
        if not len(labels):
            raise UserError("classifier: no evaluation example has a label")
        return accuracies(found, labels)


@functools.partial(jax.jit, static_argnums=1)
def guesses(encoder: Encoder, view: View, images: Array) -> Array:
    """Classes of uint8 images (B, H, W, C), the likeliest first: (B, at most 5) int32."""
    assert encoder.classifier is not None
    logits = encoder.classifier.logits(encoder.features(prepare(view, images))["pooled"])
    return jax.lax.top_k(logits, min(GUESSES, logits.shape[-1]))[1].astype(jnp.int32)


def accuracies(found: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Of guesses (N, k), the likeliest first, for the labels (N,).

    Returns:
      "top1", "mean_class_top1" over the classes that occur, and, with k = 5, "top5".
    """
    hits = found == labels[:, None]
    first = hits[:, 0]
    classes = [float(first[labels == label].mean()) for label in np.unique(labels)]
    out = {"top1": float(first.mean()), "mean_class_top1": float(np.mean(classes))}
    return out | ({"top5": float(hits.any(1).mean())} if found.shape[1] == GUESSES else {})
