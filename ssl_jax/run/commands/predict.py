"""Classify images by a classifier that `ssl-jax finetune` made: labels with their confidences."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ssl_jax.core import sharding
from ssl_jax.core.config import flag
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, Probability, Whole
from ssl_jax.core.stop import interruptible
from ssl_jax.data.pipeline import DataConfig
from ssl_jax.data.sources import Source, open_source
from ssl_jax.data.survey import read_alike
from ssl_jax.embeddings.formats import names_of, readable
from ssl_jax.evals.calibration import probabilities
from ssl_jax.report import sheets
from ssl_jax.report.sheets import Panel
from ssl_jax.run import flags as command_line
from ssl_jax.run import table_files
from ssl_jax.run.auto import typical_side
from ssl_jax.run.classifier import ImageClassifier, Loading, features_of, numbered
from ssl_jax.run.commands.embed import ImagesLine
from ssl_jax.run.console import terminal
from ssl_jax.run.datasets import range_of
from ssl_jax.run.finetuning import check_channels

SURE, UNSURE = 8, 8  # images of a class on the page: the most and the least confident ones
MOST_CLASSES = 40  # on the page, the most frequent ones
TOP = 3  # classes per image, if not set
RATIO = 4  # smallest ratio of sides at which images are called too small


@dataclass(frozen=True, kw_only=True)
class Flags(command_line.CommonFlags):
    workdir: Path | None = flag("folder that `ssl-jax finetune` has written", None)
    weights: Path | None = flag("the classifier's file, in place of --workdir", None)
    data: str = flag("images: folder:PATH, parquet:GLOB, tar:GLOB, npz:FILE, ... (docs/data.md)")
    split: Literal["train", "eval"] = flag("part of data that define both", "train")
    output: Path = flag(f"table to write, FILE{' or FILE'.join(table_files.SUFFIXES)}")
    top: Count | None = flag("number of classes per image; by default 3", None)
    page: bool = flag("also write a contact sheet, FILE.html", True)
    any_size: bool = flag("accept images that are much smaller than those learned from", False)
    batch_size: Count = flag("images per batch, over all devices", 256)
    threads: Whole = flag("threads that decode images; by default one per core", 0)
    max_bad_fraction: Probability = flag(
        "share of corrupt images above which the command fails", DataConfig.max_bad_fraction
    )


class Predictions(NamedTuple):
    """The likeliest classes of some images.

    Attributes:
      examples: (N,), positions in the data set.
      names: of the images.
      guesses, confidences: (N, top), the likeliest first.
      labels: (N,) if the images have labels: class numbers, -1 without a label, the number of
        classes for a class that the classifier lacks; else None.
    """

    examples: np.ndarray
    names: list[str]
    guesses: np.ndarray
    confidences: np.ndarray
    labels: np.ndarray | None


def predict(flags: Flags) -> dict[str, Any]:
    """Write the table and the page, and print a summary; return the columns of the table.

    Raises:
      UserError: an error that the user must fix.
    """
    where = flags.workdir or flags.weights
    if where is None or (flags.workdir and flags.weights):
        raise UserError(
            "set either --workdir=DIR, the folder that ssl-jax finetune has written, or "
            "--weights=FILE, a classifier"
        )
    table_files.check(flags.output)
    with interruptible("nothing is written"):
        console = terminal()
        loading = Loading(
            sharding.make_mesh(sharding.MeshConfig()),
            flags.batch_size,
            flags.threads,
            flags.max_bad_fraction,
        )
        classifier = ImageClassifier.read(where, loading.mesh)
        top = top_of(flags.top, len(classifier.classes))
        source = open_source(flags.data, flags.split)
        check_images(classifier, source, str(where), flags.any_size)
        read_alike(source, range_of(classifier.encoder.config))
        with ImagesLine(console, len(source)) as line:
            line.phase("compiling", brief=True)
            features, examples = features_of(
                classifier.encoder, source, loading, progress=lambda n: line.update(n, n)
            )
        predictions = predicted(classifier, source, features, examples, top)
        columns = columns_of(classifier, predictions)
        table_files.write(flags.output, columns)
        lines = summary(classifier, source, predictions)
        if flags.page:
            page = flags.output.with_suffix(".html")
            command = command_line.command("predict", flags)
            text = page_of(classifier, source, predictions, lines, str(where), command)
            sheets.write(page, text)
        console.print("\n".join(lines), markup=False)
        pages = f" and {page}" if flags.page else ""
        console.print(f"written to {flags.output}{pages}", markup=False)
    return columns


def top_of(requested: int | None, classes: int) -> int:
    """Return the number of classes per image.

    Raises:
      UserError: more are requested than there are.
    """
    if requested is not None and requested > classes:
        raise UserError(
            f"--top={requested}: the classifier has {classes} classes; set at most that"
        )
    return requested or min(TOP, classes)


def check_images(
    classifier: ImageClassifier, source: Source, name: str, any_size: bool = False
) -> None:
    """Check that the images are like those that the classifier learned from.

    Raises:
      UserError: none at all, other channels, or much smaller ones.
    """
    if not len(source):
        raise UserError(f"{source.name} holds no images")
    check_channels(source, classifier.encoder.channels, name)
    side = typical_side(source)
    if not any_size and classifier.side >= RATIO * side:
        raise UserError(
            f"{source.name}: the images have about {side} pixels on the short side, and {name} "
            f"learned from images with {classifier.side}; give images of that size, or --any_size"
        )


def predicted(
    classifier: ImageClassifier,
    source: Source,
    features: np.ndarray,
    examples: np.ndarray,
    top: int,
) -> Predictions:
    """Return the `top` likeliest classes of images with these features (N, D).

    Raises:
      UserError: features that are not finite.
    """
    if not np.isfinite(features).all():
        raise UserError(f"{source.name}: the network's features are not finite")
    chances = probabilities(classifier.logits(features), classifier.temperature)
    guesses = np.argsort(-chances, axis=1, kind="stable")[:, :top]
    labels = None
    if source.labels is not None and set(source.class_names) & set(classifier.classes):
        labels = numbered(source, examples, classifier.classes)
    return Predictions(
        examples,
        names_of(source, examples),
        guesses,
        np.take_along_axis(chances, guesses, axis=1),
        labels,
    )


def columns_of(classifier: ImageClassifier, predictions: Predictions) -> dict[str, list[Any]]:
    """Return the columns: "name", "index", "label", "confidence", "label_2", "confidence_2", ...
    and, if there are labels, "true_label".
    """
    classes = [*(readable(name) for name in classifier.classes), ""]
    columns: dict[str, list[Any]] = {
        "name": predictions.names,
        "index": predictions.examples.tolist(),
    }
    for place in range(predictions.guesses.shape[1]):
        suffix = f"_{place + 1}" if place else ""
        columns[f"label{suffix}"] = [classes[n] for n in predictions.guesses[:, place]]
        columns[f"confidence{suffix}"] = predictions.confidences[:, place].tolist()
    if predictions.labels is not None:
        columns["true_label"] = [
            classes[n] for n in np.minimum(predictions.labels, len(classes) - 1)
        ]
    return columns


def summary(classifier: ImageClassifier, source: Source, predictions: Predictions) -> list[str]:
    """Describe the predictions in lines."""
    first = predictions.guesses[:, 0]
    counts = np.bincount(first, minlength=len(classifier.classes))
    order = np.argsort(-counts, kind="stable")
    shown = [f"{readable(classifier.classes[n])} {counts[n]:,}" for n in order[:10] if counts[n]]
    more = int((counts > 0).sum()) - len(shown)
    lines = [
        f"{len(first):,} images: {', '.join(shown)}"
        + (f" and {more} more classes" if more else ""),
        f"mean confidence {predictions.confidences[:, 0].mean():.3f}",
    ]
    if left_out := len(source) - len(first):
        lines.append(f"{left_out:,} corrupt images are left out")
    if predictions.labels is not None and np.any(known := predictions.labels >= 0):
        correct = first[known] == predictions.labels[known]
        lines.append(
            f"{int(correct.sum()):,} of the {int(known.sum()):,} images with a label are "
            f"classified correctly ({correct.mean():.3f})"
        )
    elif source.labels is not None and predictions.labels is None:
        lines.append("the labels of the images are not compared: no class is one of the classifier")
    return lines


def page_of(
    classifier: ImageClassifier,
    source: Source,
    predictions: Predictions,
    lines: Sequence[str],
    where: str,
    command: str,
) -> str:
    """Return the contact sheet: of each predicted class the most and the least confident images."""
    first, confidence = predictions.guesses[:, 0], predictions.confidences[:, 0]
    counts = np.bincount(first, minlength=len(classifier.classes))
    shown = [int(n) for n in np.argsort(-counts, kind="stable")[:MOST_CLASSES] if counts[n]]
    rows_of: dict[int, np.ndarray] = {}
    for number in shown:
        rows = np.flatnonzero(first == number)
        rows = rows[np.argsort(-confidence[rows], kind="stable")]
        if len(rows) > SURE + UNSURE:
            rows = np.concatenate([rows[:SURE], rows[-UNSURE:]])
        rows_of[number] = rows
    wanted = np.concatenate(list(rows_of.values()))
    view, channels = classifier.encoder.view, classifier.encoder.channels
    pictures = sheets.thumbnails(
        source, predictions.examples[wanted].tolist(), min(view.sides), channels
    )
    panels = []
    for number, rows in rows_of.items():
        cells = []
        for row in rows:
            correct = None
            if predictions.labels is not None and predictions.labels[row] >= 0:
                correct = bool(predictions.labels[row] == number)
            text = f"{confidence[row]:.0%}\n{predictions.names[row]}"
            cells += sheets.cell(pictures, int(predictions.examples[row]), text, correct)
        most = f"the {SURE} most and the {UNSURE} least confident"
        text = f"{counts[number]:,} images" + (f"; {most}" if counts[number] > len(rows) else "")
        panels.append(Panel(readable(classifier.classes[number]), text, cells))
    hidden = int((counts > 0).sum()) - len(shown)
    return sheets.render(
        f"Predictions for {source.name}",
        f"{lines[0]}.",
        [f"{hidden} less frequent classes are not shown."] if hidden else [],
        "Images by predicted class, the most confident first, each with its confidence and name."
        + (
            " A sign and a border show whether its own label agrees."
            if predictions.labels is not None
            else ""
        ),
        panels,
        {"classifier": where, "images": source.name, "summary": "; ".join(lines[1:])},
        command,
    )
