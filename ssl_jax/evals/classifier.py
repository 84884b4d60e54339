"""The accuracy of a network's own classifier, for methods that learn the labels."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ssl_jax.augment.recipes import prepare
from ssl_jax.core.inputs import View
from ssl_jax.evals.base import Protocol, Subject
from ssl_jax.evals.features import collect
from ssl_jax.evals.scores import accuracies, guesses_of
from ssl_jax.objectives.base import Encoder

Array = jax.Array


@dataclass(frozen=True, kw_only=True)
class Classifier(Protocol):
    """How often the class of a test image is the first guess of the method's own classifier
    (`Encoder.classifier`), over all images and as the mean over classes; and, of more than five
    classes, how often it is among the first five.
    """

    def applies(self, subject: Subject) -> bool:
        encoder = subject.encoder
        return encoder is not None and encoder.classifier is not None and subject.labelled

    def measure(self, subject: Subject) -> dict[str, float]:
        images = subject.images
        found, index = collect(
            lambda batch, _: _guesses(subject.encoder, images.view, batch),
            images.batches(images.test),
            images.mesh,
        )
        ((guesses, labels),) = images.known(images.test, [found], index)
        return accuracies(guesses, labels, "classifier")


def _likeliest(encoder: Encoder, view: View, images: Array) -> Array:
    """Classes (B, guesses) int32 of uint8 images (B, H, W, C), the likeliest first."""
    assert encoder.classifier is not None
    pooled = encoder.features(prepare(view, images))["pooled"]
    (logits,) = encoder.classifier.logits(pooled)
    return jax.lax.top_k(logits, guesses_of(logits.shape[-1]))[1].astype(jnp.int32)


# The encoder is an argument, not a closure: one compile for every step's weights.
_guesses = jax.jit(_likeliest, static_argnums=1)
