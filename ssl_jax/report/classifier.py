"""The page of a classifier: its accuracy beside baselines, its confusions and its mistakes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.report.images import Cell
from ssl_jax.report.page import Section, document
from ssl_jax.report.sheets import Panel

MOST_CLASSES = 30  # of a matrix that is shown whole
MOST_PAIRS = 20  # confusions that are listed


class Outcome(NamedTuple):
    """Results of fine-tuning, as the page shows them.

    Attributes:
      scores: the classifier and its baselines, each with "name", "top1", "low", "high" and
        "per_class", on the test images.
      candidates: those among which the held-out images chose, each with "name", "top1", "loss" and
        "chosen".
      confusion: (C, C), images of class i that were predicted as j.
      classes: each with "name", "precision", "recall", "f1" (None if undefined), "test" and
        "train".
      mistakes: the most confident ones, most confident first.
      facts: name -> text.
      notes: warnings.
      calibration: description of the confidences.
      choice: description of how the classifier was chosen.
    """

    scores: Sequence[Mapping[str, Any]]
    candidates: Sequence[Mapping[str, Any]]
    confusion: np.ndarray
    classes: Sequence[Mapping[str, Any]]
    mistakes: Sequence[Cell]
    facts: Mapping[str, str]
    notes: Sequence[str]
    calibration: str
    choice: str


def render(outcome: Outcome, title: str, lead: str, footer: str) -> str:
    """Render the page as one self-contained file; all text is escaped."""
    names = [row["name"] for row in outcome.classes]
    total = int(outcome.confusion.sum())
    accuracy = {
        "text": f"Share of the {total:,} test images that are classified correctly. The linear "
        "probes are logistic regression on frozen features of the network before fine-tuning, and "
        "of the same network with random weights, on the same labels.",
        "scores": outcome.scores,
        "notes": [outcome.calibration],
    }
    text = "Mistakes on the test images of which the classifier is most confident."
    mistakes = {"text": text if outcome.mistakes else "There are no mistakes on the test images."}
    panels = [Panel("", "", outcome.mistakes)] if outcome.mistakes else []
    sections = [
        Section("accuracy", "Accuracy", "accuracy.html", accuracy),
        Section(
            "choice",
            "Choice of the classifier",
            "choice.html",
            {"text": outcome.choice, "candidates": outcome.candidates},
        ),
        Section("confusion", "Confusions", "confusion.html", _confusion(outcome.confusion, names)),
        Section(
            "classes",
            "Classes",
            "classes.html",
            {
                "text": "Precision is the share of the images predicted as the class that are of "
                "it; recall is the share of the class's images that are predicted as it.",
                "rows": outcome.classes,
            },
        ),
        Section(
            "mistakes", "Most confident mistakes", "sheets.html", mistakes | {"panels": panels}
        ),
        Section("made", "How it was made", "facts.html", outcome.facts),
    ]
    return document(title, lead, outcome.notes, sections, footer)


def _confusion(matrix: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    rows = [
        {
            "name": name,
            "number": number,
            "cells": [
                {"count": int(n), "share": float(s)}
                for n, s in zip(matrix[number], share[number], strict=True)
            ],
        }
        for number, name in enumerate(names)
    ]
    wrong = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS]
    pairs = [divmod(int(place), len(matrix)) for place in order]
    confused = [(names[i], names[j], int(wrong[i, j])) for i, j in pairs if wrong[i, j]]
    small = len(names) <= MOST_CLASSES
    whole = "Rows are labels, columns are predictions; confusion.csv has the same numbers."
    return {
        "text": whole if small else "All numbers are in confusion.csv.",
        "names": names,
        "rows": rows if small else [],
        "confused": confused,
    }
