"""Results of a classifier of images with several labels each: numbers, files and its page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.core.files import write_json, write_text
from ssl_jax.embeddings.formats import readable
from ssl_jax.evals import calibration
from ssl_jax.evals.average_precision import average_precision
from ssl_jax.report import label_sets as report
from ssl_jax.run import table_files
from ssl_jax.run.classifier import ImageClassifier, indicators
from ssl_jax.run.probing import Measured, Sets
from ssl_jax.run.scoring import FEW, calibrated, test_names, titled

THRESHOLD = 0.5  # confidence from which a class counts as predicted
Numbers = dict[str, Any]


def score(
    classifier: ImageClassifier, test: Measured, others: Mapping[str, Numbers], sets: Sets
) -> Numbers:
    """Return the mean average precision, the baselines, calibration and classes.

    Args:
      others: `Measured.summary` of the linear probes, by name.
    """
    labels, known = test.labels, test.labels >= 0
    chance = classifier.confidences(test.logits)
    shown = chance >= THRESHOLD
    learned = indicators(sets.train, np.arange(len(sets.train)), classifier.classes)
    before = calibration.probabilities(test.logits, several=True)
    positive = labels == 1
    shares = positive.sum(0) / np.maximum(known.sum(0), 1)
    random = float(np.mean(shares[positive.any(axis=0)]))
    every = {"classifier": test.summary()} | dict(others)
    every["chance"] = {"map": random, "11point": random, "total": len(labels)}
    error = calibration.calibration_error
    classes = []
    for c, name in enumerate(classifier.classes):
        rows, right = known[:, c], int((positive & shown)[:, c].sum())
        predicted, count = int((shown & known)[:, c].sum()), int(positive[:, c].sum())
        precise = average_precision(test.logits[rows, c], positive[rows, c]) if count else None
        classes.append(
            {
                "name": readable(name),
                "average_precision": precise,
                "precision": right / predicted if predicted else None,
                "recall": right / count if count else None,
                "test": count,
                "train": int((learned[:, c] == 1).sum()),
            }
        )
    return {
        "scores": every,
        "calibration_error": error(chance[known], positive[known]),
        "calibration_error_uncalibrated": error(before[known], positive[known]),
        "temperature": classifier.temperature,
        "threshold": THRESHOLD,
        "classes": classes,
    }


def named(names: Sequence[str], row: np.ndarray) -> list[str]:
    """Return the names of the classes where `row` (C,) is true."""
    return [names[int(c)] for c in np.flatnonzero(row)]


def write(
    folder: Path, classifier: ImageClassifier, test: Measured, sets: Sets, numbers: Numbers
) -> None:
    """Write classifier.json and predictions.csv, of the test images, to `folder`."""
    names = [readable(name) for name in classifier.classes]
    write_json(folder / "classifier.json", numbers)
    chance = classifier.confidences(test.logits)
    columns: dict[str, Sequence[Any]] = {
        "name": test_names(sets.test, test.examples),
        "index": test.examples.tolist(),
        "labels": [named(names, row == 1) for row in test.labels],
        "predicted": [named(names, row >= THRESHOLD) for row in chance],
    }
    for c, name in enumerate(names):
        columns[name if name not in columns else f"{name} ({c})"] = chance[:, c].tolist()
    table_files.write(folder / "predictions.csv", columns)


def write_page(
    path: Path,
    classifier: ImageClassifier,
    test: Measured,
    sets: Sets,
    numbers: Numbers,
    facts: Mapping[str, str],
    footer: str,
) -> None:
    """Write the page of the classifier."""
    scores, notes = numbers["scores"], []
    if len(test.labels) < FEW:
        notes.append(f"There are only {len(test.labels)} test images.")
    if not scores["classifier"]["map"] > scores["untrained"]["map"]:
        notes.append("The classifier does not beat a linear probe of the untrained network.")
    lead = (
        f"{len(classifier.classes)} classes, several per image; mean average precision "
        f"{scores['classifier']['map']:.3f} on {len(test.labels):,} test images."
    )
    named = {row.pop("name"): row for row in titled(numbers)}
    text = report.render(
        report.SetsOutcome(named, numbers["candidates"], numbers["classes"], facts, notes),
        (calibrated(numbers), numbers["choice"]),
        f"Classifier of {facts['labelled images']}",
        lead,
        footer,
    )
    write_text(path, text)
