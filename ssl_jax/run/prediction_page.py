"""The contact sheet of predictions: of each predicted class the most and least confident images."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ssl_jax.data.sources import Source
from ssl_jax.embeddings.formats import readable
from ssl_jax.report import sheets
from ssl_jax.report.sheets import Panel
from ssl_jax.run.classifier import ImageClassifier

SURE, UNSURE = 8, 8  # images of a class: the most and the least confident ones
MOST_CLASSES = 40  # the most frequent ones


class ClassRows(NamedTuple):
    """Images that were predicted as a class.

    Attributes:
      number: of the class.
      rows: (n,), positions among the predictions.
      confidence: (n,).
      correct: (n,) 1 if an image's own label agrees, 0 if not, -1 if it has none.
    """

    number: int
    rows: np.ndarray
    confidence: np.ndarray
    correct: np.ndarray

    def shown(self) -> "ClassRows":
        """Return the images to show, the most confident first."""
        order = np.argsort(-self.confidence, kind="stable")
        if len(order) > SURE + UNSURE:
            order = np.concatenate([order[:SURE], order[-UNSURE:]])
        return ClassRows(self.number, self.rows[order], self.confidence[order], self.correct[order])


def page_of(
    classifier: ImageClassifier,
    source: Source,
    examples: np.ndarray,
    names: Sequence[str],
    classes: Sequence[ClassRows],
    lines: Sequence[str],
    where: str,
    command: str,
) -> str:
    """Render the page.

    Args:
      examples, names: (N,), of the predictions.
      classes: the predicted classes.
      lines: summary of the predictions.
      where: folder or file of the classifier.
    """
    ordered = sorted(classes, key=lambda part: -len(part.rows))
    shown = [(len(part.rows), part.shown()) for part in ordered[:MOST_CLASSES]]
    wanted = np.concatenate([np.zeros(0, np.int64), *(part.rows for _, part in shown)])
    view, channels = classifier.encoder.view, classifier.encoder.channels
    pictures = sheets.thumbnails(source, examples[wanted].tolist(), min(view.sides), channels)
    panels = []
    for count, part in shown:
        cells = []
        for row, confidence, correct in zip(*part[1:], strict=True):
            text = f"{confidence:.0%}\n{names[row]}"
            agrees = None if correct < 0 else bool(correct)
            cells += sheets.cell(pictures, int(examples[row]), text, agrees)
        most = f"; the {SURE} most and the {UNSURE} least confident"
        text = f"{count:,} images" + (most if count > len(part.rows) else "")
        panels.append(Panel(readable(classifier.classes[part.number]), text, cells))
    hidden = len(ordered) - len(shown)
    labelled = any(np.any(part.correct >= 0) for part in classes)
    return sheets.render(
        f"Predictions for {source.name}",
        f"{lines[0]}.",
        [f"{hidden} less frequent classes are not shown."] if hidden else [],
        "Images by predicted class, the most confident first, each with its confidence and name."
        + (" A sign and a border show whether its own label agrees." if labelled else ""),
        panels,
        {"classifier": where, "images": source.name, "summary": "; ".join(lines[1:])},
        command,
    )
