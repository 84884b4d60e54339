"""The page of a classifier of images with several labels each: its average precisions."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ssl_jax.report.page import Section, document


class SetsOutcome(NamedTuple):
    """Results of fine-tuning, as the page shows them.

    Attributes:
      scores: name of the classifier or baseline -> its "map" and "11point" on the test images.
      candidates: those among which the held-out images chose, each with "name", "map", "loss" and
        "chosen".
      classes: each with "name", "average_precision", "precision", "recall" (None if undefined),
        "test" and "train".
      facts: name -> text.
      notes: warnings.
    """

    scores: Mapping[str, Mapping[str, float]]
    candidates: Sequence[Mapping[str, Any]]
    classes: Sequence[Mapping[str, Any]]
    facts: Mapping[str, str]
    notes: Sequence[str]


def render(outcome: SetsOutcome, texts: tuple[str, str], title: str, lead: str, footer: str) -> str:
    """Render the page as one self-contained file; all text is escaped.

    Args:
      texts: descriptions of the confidences and of the choice.
    """
    calibration, choice = texts
    scores = {
        "text": "Mean over the classes of the average precision of the test images, exact and as "
        "the mean of 11 points (PASCAL VOC 2007). The linear probes are logistic regressions on "
        "frozen features of the network before fine-tuning, and of the same network with random "
        "weights, on the same labels.",
        "label": "Average precision",
        "heads": ("classifier", "mAP", "of 11 points"),
        "rows": [
            (name, _text(row["map"]), _text(row["11point"])) for name, row in outcome.scores.items()
        ],
        "notes": [calibration],
    }
    candidates = {
        "text": choice,
        "label": "Candidates",
        "heads": ("candidate", "mAP", "cross-entropy", "chosen"),
        "rows": [
            (row["name"], _text(row["map"]), _text(row["loss"]), "yes" if row["chosen"] else "")
            for row in outcome.candidates
        ],
        "notes": [],
    }
    classes = {
        "text": "Precision and recall count a class as predicted from a confidence of 0.5.",
        "label": "Classes",
        "heads": ("class", "average precision", "precision", "recall", "test", "training images"),
        "rows": [
            (
                row["name"],
                *(_text(row[key]) for key in ("average_precision", "precision", "recall")),
                *(f"{row[key]:,}" for key in ("test", "train")),
            )
            for row in outcome.classes
        ],
        "notes": [],
    }
    sections = [
        Section("scores", "Mean average precision", "table.html", scores),
        Section("choice", "Choice of the classifier", "table.html", candidates),
        Section("classes", "Classes", "table.html", classes),
        Section("made", "How it was made", "facts.html", outcome.facts),
    ]
    return document(title, lead, outcome.notes, sections, footer)


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
