"""Accuracy of a network's own classifier, for methods that learn the labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.evals.average_precision import mean_average_precision, precision_titles
from ssl_jax.evals.base import Batch, Protocol, Subject
from ssl_jax.evals.checks import check_varied
from ssl_jax.evals.scores import accuracies, accuracy_titles, guesses_of
from ssl_jax.objectives.base import Encoder

Array = jax.Array


@dataclass(frozen=True, kw_only=True)
class Classifier(Protocol):
    """Accuracy of the method's own classifier (`Encoder.classifier`) on the test images: top-1, its
    mean over classes and, with more than five classes, top-5; with several labels per image its
    mean average precision, of exact areas and of 11 points.
    """

    multi: ClassVar[bool] = True

    titles: ClassVar[Mapping[str, str]] = {
        **accuracy_titles("classifier", "the network's own classifier"),
        **precision_titles("classifier", "the network's own classifier"),
    }
    scores: ClassVar[tuple[str, ...]] = ("classifier",)
    needs: ClassVar[str] = "a classifier of the method's own, and labels"

    def applies(self, subject: Subject) -> bool:
        encoder = subject.encoder
        own = encoder is not None and encoder.classifier is not None
        return own and subject.images.labelled

    def measure(self, subject: Subject) -> dict[str, float]:
        images = subject.images
        if subject.multi:
            logits, index = subject.map(_logits, images.test)
            check_varied(logits, "logits")
            ((rows, targets),) = images.labelled_rows(images.test, [logits], index)
            return mean_average_precision(rows, targets[:, : rows.shape[1]], "classifier")
        (predictions, logits), index = subject.map(_guesses, images.test)
        check_varied(logits, "logits")
        ((guesses, labels),) = images.labelled_rows(images.test, [predictions], index)
        return accuracies(guesses, labels, "classifier")


def _logits(encoder: Encoder, batch: Batch) -> Array:
    """Return the logits (B, C)."""
    assert encoder.classifier is not None
    (logits,) = encoder.classifier.logits(encoder.features(batch.images).pooled)
    return logits.astype(jnp.float32)


def _guesses(encoder: Encoder, batch: Batch) -> tuple[Array, Array]:
    """Return classes (B, guesses) int32, the likeliest first, and, to be checked, the logits of
    these and of the first class.
    """
    logits = _logits(encoder, batch)
    best, guesses = jax.lax.top_k(logits, guesses_of(logits.shape[-1]))
    return guesses.astype(jnp.int32), jnp.concatenate([best, logits[:, :1]], -1)
