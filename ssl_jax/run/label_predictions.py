"""Predictions of a classifier of images with several labels each."""

from typing import Any, NamedTuple

import numpy as np

from ssl_jax.data.sources import Source
from ssl_jax.embeddings.formats import names_of, readable
from ssl_jax.evals.average_precision import mean_average_precision
from ssl_jax.run.classifier import ImageClassifier, indicators
from ssl_jax.run.prediction_page import ClassRows


class LabelPredictions(NamedTuple):
    """The labels of some images.

    Attributes:
      examples: (N,), positions in the data set.
      names: of the images.
      confidences: (N, C), probability of each class.
      threshold: least confidence of a label.
      labels: (N, C) if the images have several labels each: 1 for a class that they show, 0 for
        others, -1 if that is not known; else None.
    """

    examples: np.ndarray
    names: list[str]
    confidences: np.ndarray
    threshold: float
    labels: np.ndarray | None

    @classmethod
    def of(
        cls,
        classifier: ImageClassifier,
        source: Source,
        logits: np.ndarray,
        examples: np.ndarray,
        threshold: float,
    ) -> "LabelPredictions":
        """Predict the labels of images with these logits (N, C)."""
        labels = None
        if source.label_sets is not None and set(source.class_names) & set(classifier.classes):
            labels = indicators(source, examples, classifier.classes)
        confidences = classifier.confidences(logits)
        return cls(examples, names_of(source, examples), confidences, threshold, labels)

    @property
    def shown(self) -> np.ndarray:
        """Return where an image gets a label (N, C)."""
        return self.confidences >= self.threshold

    def columns(self, classifier: ImageClassifier) -> dict[str, list[Any]]:
        """Return the columns "name", "index", "labels", "confidences" (lists, the most confident
        label first) and, if the images have labels, "true_labels".
        """
        names = [readable(name) for name in classifier.classes]
        order = np.argsort(-self.confidences, axis=1, kind="stable")
        counts = self.shown.sum(axis=1)
        labels = [row[:n] for row, n in zip(order, counts, strict=True)]
        columns: dict[str, list[Any]] = {
            "name": self.names,
            "index": self.examples.tolist(),
            "labels": [[names[c] for c in row] for row in labels],
            "confidences": [
                own[row].tolist() for own, row in zip(self.confidences, labels, strict=True)
            ],
        }
        if self.labels is not None:
            columns["true_labels"] = [
                [names[c] for c in np.flatnonzero(row == 1)] for row in self.labels
            ]
        return columns

    def summary(self, classifier: ImageClassifier, source: Source) -> list[str]:
        """Describe the predictions in lines."""
        shown = self.shown
        counts, each = shown.sum(axis=0), shown.sum(axis=1)
        order = np.argsort(-counts, kind="stable")
        most = [f"{readable(classifier.classes[n])} {counts[n]:,}" for n in order[:10] if counts[n]]
        more = int((counts > 0).sum()) - len(most)
        lines = [
            f"{len(shown):,} images: {', '.join(most) or 'no label'}"
            + (f" and {more} more classes" if more else ""),
            f"{each.mean():.2f} labels per image, {int((each == 0).sum()):,} images without any, "
            f"from a confidence of {self.threshold:g}",
        ]
        if left_out := len(source) - len(shown):
            lines.append(f"{left_out:,} corrupt images are left out")
        if self.labels is not None and np.any(self.labels == 1):
            numbers = mean_average_precision(self.confidences, self.labels, "own")
            lines.append(
                f"mean average precision on the images' own labels {numbers['own_map']:.3f}"
            )
        return lines

    def by_class(self) -> list[ClassRows]:
        """Return the images of each label that was given."""
        parts = []
        for number in np.flatnonzero(self.shown.any(axis=0)):
            rows = np.flatnonzero(self.shown[:, number])
            correct = np.full(len(rows), -1) if self.labels is None else self.labels[rows, number]
            parts.append(ClassRows(int(number), rows, self.confidences[rows, number], correct))
        return parts
