"""Zero-shot classification: a class is the mean of the text tower's embeddings of its name in
several sentences, and an image is assigned to the nearest class (CLIP 2103.00020, section 3.1.4).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from sklearn.preprocessing import normalize

from ssl_jax.core.errors import UserError
from ssl_jax.evals.base import Protocol, Subject
from ssl_jax.evals.checks import NotMeasurable
from ssl_jax.evals.images import Part
from ssl_jax.evals.neighbours import nearest
from ssl_jax.evals.protocols.retrieval import embed_images, embed_texts
from ssl_jax.evals.scores import accuracies, accuracy_titles, guesses_of
from ssl_jax.losses.shapes import check_shapes

TEMPLATES = (
    "{}",
    "a photo of a {}.",
    "a photo of the {}.",
    "a picture of one {}.",
    "a close view of a {}.",
    "a {} seen from afar.",
    "a small picture of a {}.",
    "a bright photo of a {}.",
    "a dark photo of a {}.",
    "a drawing of a {}.",
)


@dataclass(frozen=True, kw_only=True)
class ZeroShot(Protocol):
    """Accuracy of the nearest class name, for methods with a text tower; no training on labels.

    Attributes:
      templates: file of sentences, one per line, with {} in place of the name; by default
        `TEMPLATES`.
      names: file of class names, one per line, in the order of the classes; by default the data's.
    """

    titles: ClassVar[Mapping[str, str]] = accuracy_titles("zero_shot", "nearest class name")
    scores: ClassVar[tuple[str, ...]] = ("zero_shot",)

    templates: str = ""
    names: str = ""

    labels: ClassVar[bool] = False

    needs: ClassVar[str] = (
        "a method with a text tower, and evaluation labels whose classes have names"
    )

    def applies(self, subject: Subject) -> bool:
        """Return whether there are a text tower, labels, and names that are not mere numbers."""
        encoder, test = subject.encoder, subject.images.test.source
        has_names = bool(self.names) or not all(name.isdecimal() for name in test.class_names)
        has_text = encoder is not None and encoder.text is not None
        return has_text and test.labels is not None and has_names

    def measure(self, subject: Subject) -> dict[str, float]:
        encoder, images = subject.encoder, subject.images
        test, rows = images.test
        assert encoder is not None and test.labels is not None
        names = lines(self.names, "names") if self.names else test.class_names
        if len(names) != test.num_classes:
            raise UserError(
                f"zero_shot: expected {test.num_classes} class names for {test.name}, got "
                f"{len(names)}"
            )
        templates = lines(self.templates, "templates") if self.templates else TEMPLATES
        for template in templates:
            if "{}" not in template:
                raise UserError(f"zero_shot: expected {{}} for the class name in {template!r}")
        sentences = [template.replace("{}", name) for name in names for template in templates]
        embedded_texts = embed_texts(encoder, sentences, subject.tokenizer, images.mesh)
        labelled = Part(test, rows[test.labels[rows] >= 0])
        embedded, index = embed_images(subject, labelled)
        classes = class_embeddings(embedded_texts.reshape(len(names), len(templates), -1))
        return zero_shot_accuracies(embedded, classes, test.labels[index])


def lines(file: str, what: str) -> list[str]:
    """Read the lines of a text file that are not empty.

    Raises:
      UserError: the file cannot be read, or has none.
    """
    try:
        texts = [
            text.strip() for text in Path(file).expanduser().read_text("utf-8-sig").splitlines()
        ]
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"zero_shot: {what} = {file}: {e}") from None
    texts = [text for text in texts if text]
    if not texts:
        raise UserError(f"zero_shot: {what} = {file} is empty")
    return texts


def class_embeddings(sentences: np.ndarray) -> np.ndarray:
    """Return unit vectors (C, d) of classes: means of the unit vectors of sentences (C, T, d)."""
    check_shapes("class_embeddings: sentences (C, T, d)", sentences)
    return normalize([normalize(each).mean(0) for each in sentences])


def zero_shot_accuracies(
    images: np.ndarray, classes: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """Return the share of the images whose class is the nearest (top1), among the five nearest
    (top5, with more than five classes), and the mean over classes of the first; see
    `scores.accuracies`.

    Nearest by cosine; ties go to the lower class.

    Args:
      images: (N, d), N > 0.
      classes: (C, d).
      labels: (N,) in [0, C).

    Raises:
      UserError: no image.
    """
    expected = "zero_shot_accuracies: images (N, d), classes (C, d), labels (N) int"
    check_shapes(expected, images, classes, labels)
    if not len(labels):
        raise NotMeasurable("zero_shot: no test image has a label")
    _, guesses = nearest(classes, images, guesses_of(len(classes)))
    return accuracies(guesses, labels, "zero_shot")
