"""Accuracy of a network's own classifier, for methods that learn the labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.evals.base import Batch, Protocol, Subject
from ssl_jax.evals.checks import check_varied
from ssl_jax.evals.scores import accuracies, guesses_of
from ssl_jax.objectives.base import Encoder

Array = jax.Array


@dataclass(frozen=True, kw_only=True)
class Classifier(Protocol):
    """Accuracy of the method's own classifier (`Encoder.classifier`) on the test images: top-1, its
    mean over classes and, with more than five classes, top-5.
    """

    titles: ClassVar[Mapping[str, str]] = {
        "classifier_top1": "the network's own classifier",
        "classifier_top5": "the same, among its first 5 guesses",
    }
    scores: ClassVar[tuple[str, ...]] = ("classifier",)
    needs: ClassVar[str] = "a classifier of the method's own, and labels"

    def applies(self, subject: Subject) -> bool:
        encoder = subject.encoder
        return encoder is not None and encoder.classifier is not None and subject.labelled

    def measure(self, subject: Subject) -> dict[str, float]:
        images = subject.images
        (predictions, logits), index = subject.map(_guesses, images.test)
        check_varied(logits, "logits")
        ((guesses, labels),) = images.labelled_rows(images.test, [predictions], index)
        return accuracies(guesses, labels, "classifier")


def _guesses(encoder: Encoder, batch: Batch) -> tuple[Array, Array]:
    """Return classes (B, guesses) int32, the likeliest first, and, to be checked, the logits of
    these and of the first class.
    """
    assert encoder.classifier is not None
    pooled = encoder.features(batch.images).pooled
    (logits,) = encoder.classifier.logits(pooled)
    best, guesses = jax.lax.top_k(logits, guesses_of(logits.shape[-1]))
    return guesses.astype(jnp.int32), jnp.concatenate([best, logits[:, :1]], -1).astype(jnp.float32)
