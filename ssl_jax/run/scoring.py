"""Results of a fine-tuned classifier on the test images: numbers, files and its page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from ssl_jax.core.files import write_json, write_text
from ssl_jax.data.sources import Source
from ssl_jax.embeddings.formats import names_of, readable
from ssl_jax.evals import calibration
from ssl_jax.report import classifier as report
from ssl_jax.report.images import Cell
from ssl_jax.report.sheets import cell, thumbnails
from ssl_jax.run import table_files
from ssl_jax.run.classifier import ImageClassifier
from ssl_jax.run.probing import Measured, Sets

MISTAKES = 40  # that the page shows
FEW = 30  # test images, with fewer of which the interval is wide
Numbers = dict[str, Any]


def score(
    classifier: ImageClassifier, test: Measured, others: Mapping[str, Numbers], sets: Sets
) -> Numbers:
    """Return the accuracy with its interval, the baselines, calibration and classes.

    Args:
      others: `Measured.summary` of the linear probes, by name.
    """
    count, labels, guesses = len(classifier.classes), test.labels, test.guesses
    selected = labels < count
    confidence = {
        name: calibration.probabilities(test.logits, temperature).max(1)
        for name, temperature in (("before", 1.0), ("after", classifier.temperature))
    }
    train = sets.train.labels
    assert train is not None
    learned_counts = np.bincount(train[train >= 0], minlength=count)
    chance = Measured(
        labels, np.tile(learned_counts.astype(np.float64), (len(labels), 1)), test.examples
    )
    every = {"classifier": test.summary()} | dict(others) | {"chance": chance.summary()}
    precision, recall, f1, support = precision_recall_fscore_support(
        labels[selected], guesses[selected], labels=range(count), zero_division=np.nan
    )
    error = calibration.calibration_error
    return {
        "scores": {name: _with_interval(numbers) for name, numbers in every.items()},
        "calibration_error": error(confidence["after"], guesses == labels),
        "calibration_error_uncalibrated": error(confidence["before"], guesses == labels),
        "temperature": classifier.temperature,
        "other_classes": int((~selected).sum()),
        "classes": [
            {
                "name": readable(name),
                "precision": _number(precision[i]),
                "recall": _number(recall[i]),
                "f1": _number(f1[i]),
                "test": int(support[i]),
                "train": int(learned_counts[i]),
            }
            for i, name in enumerate(classifier.classes)
        ],
    }


def _with_interval(numbers: Numbers) -> Numbers:
    interval = calibration.wilson(numbers["correct"], numbers["total"])
    top1 = numbers["correct"] / numbers["total"]
    return {"top1": top1, "low": interval.low, "high": interval.high} | numbers


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def write(
    folder: Path, classifier: ImageClassifier, test: Measured, sets: Sets, numbers: Numbers
) -> None:
    """Write classifier.json, confusion.csv and predictions.csv, of the test images, to `folder`."""
    names = [readable(name) for name in classifier.classes]
    count, matrix = len(names), _confusion(classifier, test)
    write_json(folder / "classifier.json", numbers)
    columns: dict[str, Sequence[Any]] = {"label": names}
    for number, name in enumerate(names):
        columns[name if name not in columns else f"{name} ({number})"] = matrix[:, number].tolist()
    table_files.write(folder / "confusion.csv", columns)
    chance = calibration.probabilities(test.logits, classifier.temperature)
    rows = range(len(test.examples))
    table_files.write(
        folder / "predictions.csv",
        {
            "name": test_names(sets.test, test.examples),
            "index": test.examples.tolist(),
            "label": [names[n] if n < count else "" for n in test.labels],
            "predicted": [names[n] for n in test.guesses],
            "confidence": [float(chance[row, test.guesses[row]]) for row in rows],
        },
    )


def _confusion(classifier: ImageClassifier, test: Measured) -> np.ndarray:
    """Count the test images (C, C) per known class and predicted one."""
    count = len(classifier.classes)
    labels, guesses = test.labels[test.selected], test.guesses[test.selected]
    return confusion_matrix(labels, guesses, labels=range(count))  # type: ignore[no-any-return]


def test_names(source: Source, index: np.ndarray) -> list[str]:
    """Name the test images as `predict` names them: a fold of a data set as the data set does."""
    origins = [source.origin(int(i)) for i in index]
    whole = origins[0][0] if origins else source
    if source.names is None and all(origin is whole for origin, _ in origins):
        return names_of(whole, np.array([row for _, row in origins], np.int64))
    return names_of(source, index)


def titled(numbers: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the scores of the classifier and of its baselines, each with its title as "name"."""
    several = "threshold" in numbers  # labels per image
    titles = {
        "classifier": f"this classifier ({numbers['chosen']})",
        "linear_probe": "linear probe",
        "untrained": "linear probe of the untrained network",
        "chance": "a random ranking" if several else "always the most frequent class",
    }
    return [{"name": titles[key]} | row for key, row in numbers["scores"].items()]


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
    notes = []
    if numbers["other_classes"]:
        notes.append(
            f"{numbers['other_classes']} of {len(test.labels)} test images are of classes that the "
            "training images lack; they count as mistakes."
        )
    if len(test.labels) < FEW:
        notes.append(
            f"There are only {len(test.labels)} test images: read the intervals, not the numbers."
        )
    best = max(numbers["scores"].values(), key=lambda row: row["correct"])
    if numbers["scores"]["classifier"]["correct"] <= numbers["scores"]["untrained"]["correct"]:
        notes.append("The classifier does not beat a linear probe of the untrained network.")
    elif best is not numbers["scores"]["classifier"] and best["correct"]:
        notes.append("The linear probe classifies more of the test images correctly.")
    outcome = report.Outcome(
        scores=titled(numbers),
        candidates=numbers["candidates"],
        confusion=_confusion(classifier, test),
        classes=numbers["classes"],
        mistakes=mistakes(classifier, test, sets),
        facts=facts,
        notes=notes,
        calibration=calibrated(numbers),
        choice=numbers["choice"],
    )
    score = numbers["scores"]["classifier"]
    lead = (
        f"{len(classifier.classes)} classes; {score['correct']:,} of {score['total']:,} test "
        f"images are classified correctly."
    )
    write_text(
        path, report.render(outcome, f"Classifier of {facts['labelled images']}", lead, footer)
    )


def calibrated(numbers: Mapping[str, Any]) -> str:
    """Describe the calibration of the confidences in a sentence."""
    before, after = (numbers[f"calibration_error{name}"] for name in ("_uncalibrated", ""))
    if not numbers["candidates"]:
        return f"The confidences are not calibrated: expected calibration error {after:.3f}."
    return (
        f"Expected calibration error of the confidences: {after:.3f}, and {before:.3f} before they "
        f"were calibrated by the temperature {numbers['temperature']:.2f}, fitted to the held-out "
        "images."
    )


def mistakes(classifier: ImageClassifier, test: Measured, sets: Sets) -> list[Cell]:
    """Return the most confident mistakes, the most confident first."""
    confidence = calibration.probabilities(test.logits, classifier.temperature).max(1)
    wrong = np.flatnonzero(test.guesses != test.labels)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    names = [*(readable(name) for name in classifier.classes), "another class"]
    view, channels = classifier.encoder.view, classifier.encoder.channels
    pictures = thumbnails(sets.test, test.examples[wrong].tolist(), min(view.sides), channels)
    cells = []
    for row, name in zip(wrong, test_names(sets.test, test.examples[wrong]), strict=True):
        text = f"{names[test.guesses[row]]} {confidence[row]:.0%}, is {names[test.labels[row]]}"
        cells += cell(pictures, int(test.examples[row]), f"{text}\n{name}", False)
    return cells
