"""Retrieval of captions by images, and images by captions, in the space of image-text methods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import numpy as np

from ssl_jax.core import sharding
from ssl_jax.core.placement import gather, place
from ssl_jax.core.ranges import Count
from ssl_jax.data.text import Tokenizer
from ssl_jax.evals.base import Batch, Protocol, Subject
from ssl_jax.evals.checks import check_finite, check_varied
from ssl_jax.evals.images import Part
from ssl_jax.evals.neighbours import nearest
from ssl_jax.losses.shapes import check_shapes
from ssl_jax.objectives.base import Encoder

Array = jax.Array
TEXTS = 256  # per forward pass


@dataclass(frozen=True, kw_only=True)
class Retrieval(Protocol):
    """Recall at k of captions among those of all test images, and of images by their captions, for
    methods with a text tower.

    Attributes:
      k: number of nearest captions of an image, or images of a caption, that count.
    """

    titles: ClassVar[Mapping[str, str]] = {
        "retrieval{k}": "own caption among the nearest {k}",
        "retrieval{k}_text_to_image": "own image among the nearest {k}",
    }
    scores: ClassVar[tuple[str, ...]] = ("retrieval",)

    k: Count = 10

    labels: ClassVar[bool] = False

    needs: ClassVar[str] = "a method with a text tower, and captions of evaluation images"

    def applies(self, subject: Subject) -> bool:
        encoder = subject.encoder
        return encoder is not None and encoder.text is not None and bool(len(_captioned(subject)))

    def measure(self, subject: Subject) -> dict[str, float]:
        encoder, images = subject.encoder, subject.images
        captions = images.test.source.captions
        assert encoder is not None and captions is not None
        captioned = Part(images.test.source, _captioned(subject))
        embedded, index = embed_images(subject, captioned)
        texts, own = distinct([captions[int(i)] for i in index])
        embedded_texts = embed_texts(encoder, texts, subject.tokenizer, images.mesh)
        name = f"retrieval{self.k}"
        return {
            name: recall(embedded, embedded_texts, own, self.k),
            f"{name}_text_to_image": recall(
                embedded_texts, embedded, owners(own, len(texts)), self.k
            ),
        }


def _captioned(subject: Subject) -> np.ndarray:
    """Return the rows of the test set that have a caption."""
    captions = subject.images.test.source.captions
    rows = subject.images.test.rows
    return np.array([i for i in rows if captions is not None and captions[int(i)]], np.int64)


def recall(
    images: np.ndarray, texts: np.ndarray, own: Sequence[Sequence[Count]], k: Count = 10
) -> float:
    """Image-to-text recall at k: the share of images with a caption of theirs among the k nearest.

    Nearest by cosine; ties go to the earlier text. With images and texts swapped, and `owners` for
    `own`, it is text-to-image recall.

    Args:
      images: (N, d).
      texts: (M, d), distinct captions.
      own: per image, the rows of `texts` that are its own, one or more.
      k: number of texts; all of them if there are fewer.
    """
    check_shapes("recall: images (N, d), texts (M, d)", images, texts)
    _, index = nearest(texts, images, min(k, len(texts)))
    hits = [np.isin(rows, mine).any() for rows, mine in zip(index, own, strict=True)]
    return float(np.mean(hits))


def distinct(captions: Sequence[Sequence[str]]) -> tuple[list[str], list[list[int]]]:
    """Return the distinct captions in order of appearance and, per image, the rows of its own."""
    number: dict[str, int] = {}
    own = [[number.setdefault(text, len(number)) for text in texts] for texts in captions]
    return list(number), own


def owners(own: Sequence[Sequence[int]], texts: int) -> list[list[int]]:
    """Return, for each of `texts` texts, the images that it belongs to."""
    images_of: list[list[int]] = [[] for _ in range(texts)]
    for image, rows in enumerate(own):
        for text in rows:
            images_of[text].append(image)
    return images_of


def embed_images(subject: Subject, part: Part) -> tuple[np.ndarray, np.ndarray]:
    """Return joint embeddings (N, d) and index (N,) of the images of a part."""
    embeddings, index = subject.map(_image, part)
    check_varied(embeddings, "embeddings")
    return embeddings, index


def embed_texts(
    encoder: Encoder, texts: Sequence[str], tokenizer: Tokenizer, mesh: jax.sharding.Mesh
) -> np.ndarray:
    """Return joint embeddings (M, d) of texts."""
    assert encoder.text is not None
    batch = TEXTS + -TEXTS % mesh.size
    tokens = np.stack([tokenizer.tokens(text, encoder.text.context) for text in texts])
    tokens = np.pad(tokens, ((0, -len(tokens) % batch), (0, 0)))
    placed = sharding.batch_sharding(mesh)
    parts = [
        gather(_text(encoder, place(part, placed)))
        for part in np.split(tokens, len(tokens) // batch)
    ]
    embedded = np.concatenate(parts)[: len(texts)]
    check_finite(embedded, "embeddings of texts")
    return embedded


def _image(encoder: Encoder, batch: Batch) -> Array:
    assert encoder.text is not None
    return encoder.text.image(encoder.features(batch.images).pooled)


@jax.jit
def _text(encoder: Encoder, tokens: Array) -> Array:
    assert encoder.text is not None
    return encoder.text.text(tokens)
