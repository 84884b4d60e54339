"""Classify images by a classifier that `ssl-jax finetune` made: labels with their confidences."""

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
from ssl_jax.report import sheets
from ssl_jax.run import flags as command_line
from ssl_jax.run import table_files
from ssl_jax.run.auto import typical_side
from ssl_jax.run.classifier import ImageClassifier, Loading, features_of, numbered
from ssl_jax.run.commands.embed import ImagesLine
from ssl_jax.run.console import terminal
from ssl_jax.run.datasets import range_of
from ssl_jax.run.finetuning import check_channels
from ssl_jax.run.label_predictions import LabelPredictions
from ssl_jax.run.prediction_page import ClassRows, page_of
from ssl_jax.run.scoring_sets import THRESHOLD

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
    threshold: Probability | None = flag(
        "least confidence of a label, of a classifier of several labels per image; by default 0.5",
        None,
    )
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

    @classmethod
    def of(
        cls,
        classifier: ImageClassifier,
        source: Source,
        logits: np.ndarray,
        examples: np.ndarray,
        top: int,
    ) -> "Predictions":
        """Return the `top` likeliest classes of images with these logits (N, C)."""
        chances = classifier.confidences(logits)
        guesses = np.argsort(-chances, axis=1, kind="stable")[:, :top]
        labels = None
        if source.labels is not None and set(source.class_names) & set(classifier.classes):
            labels = numbered(source, examples, classifier.classes)
        confidences = np.take_along_axis(chances, guesses, axis=1)
        return cls(examples, names_of(source, examples), guesses, confidences, labels)

    def columns(self, classifier: ImageClassifier) -> dict[str, list[Any]]:
        """Return the columns: "name", "index", "label", "confidence", "label_2", "confidence_2",
        ... and, if there are labels, "true_label".
        """
        classes = [*(readable(name) for name in classifier.classes), ""]
        columns: dict[str, list[Any]] = {"name": self.names, "index": self.examples.tolist()}
        for place in range(self.guesses.shape[1]):
            suffix = f"_{place + 1}" if place else ""
            columns[f"label{suffix}"] = [classes[n] for n in self.guesses[:, place]]
            columns[f"confidence{suffix}"] = self.confidences[:, place].tolist()
        if self.labels is not None:
            columns["true_label"] = [classes[n] for n in np.minimum(self.labels, len(classes) - 1)]
        return columns

    def summary(self, classifier: ImageClassifier, source: Source) -> list[str]:
        """Describe the predictions in lines."""
        first = self.guesses[:, 0]
        counts = np.bincount(first, minlength=len(classifier.classes))
        order = np.argsort(-counts, kind="stable")
        shown = [
            f"{readable(classifier.classes[n])} {counts[n]:,}" for n in order[:10] if counts[n]
        ]
        more = int((counts > 0).sum()) - len(shown)
        lines = [
            f"{len(first):,} images: {', '.join(shown)}"
            + (f" and {more} more classes" if more else ""),
            f"mean confidence {self.confidences[:, 0].mean():.3f}",
        ]
        if left_out := len(source) - len(first):
            lines.append(f"{left_out:,} corrupt images are left out")
        if self.labels is not None and np.any(labelled := self.labels >= 0):
            correct = first[labelled] == self.labels[labelled]
            lines.append(
                f"{int(correct.sum()):,} of the {int(labelled.sum()):,} images with a label are "
                f"classified correctly ({correct.mean():.3f})"
            )
        elif source.labels is not None and self.labels is None:
            lines.append(
                "the labels of the images are not compared: no class is one of the classifier"
            )
        return lines

    def by_class(self) -> list[ClassRows]:
        """Return the images of each class that is the likeliest of one."""
        first, parts = self.guesses[:, 0], []
        for number in np.unique(first):
            rows = np.flatnonzero(first == number)
            correct = np.full(len(rows), -1)
            if self.labels is not None:
                own = self.labels[rows]
                correct = np.where(own < 0, -1, own == number)
            parts.append(ClassRows(int(number), rows, self.confidences[rows, 0], correct))
        return parts


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
        top, threshold = settings_of(flags, classifier, str(where))
        source = open_source(flags.data, flags.split)
        check_images(classifier, source, str(where), flags.any_size)
        read_alike(source, range_of(classifier.encoder.config))
        with ImagesLine(console, len(source)) as line:
            line.phase("compiling", brief=True)
            features, examples = features_of(
                classifier.encoder, source, loading, progress=lambda n: line.update(n, n)
            )
        if not np.isfinite(features).all():
            raise UserError(f"{source.name}: the network's features are not finite")
        logits = classifier.logits(features)
        predictions: Predictions | LabelPredictions
        if classifier.several:
            predictions = LabelPredictions.of(classifier, source, logits, examples, threshold)
        else:
            predictions = Predictions.of(classifier, source, logits, examples, top)
        columns = predictions.columns(classifier)
        table_files.write(flags.output, columns)
        lines = predictions.summary(classifier, source)
        if flags.page:
            page = flags.output.with_suffix(".html")
            command = command_line.command("predict", flags)
            named = predictions.examples, predictions.names, predictions.by_class()
            sheets.write(page, page_of(classifier, source, *named, lines, str(where), command))
        console.print("\n".join(lines), markup=False)
        pages = f" and {page}" if flags.page else ""
        console.print(f"written to {flags.output}{pages}", markup=False)
    return columns


def settings_of(flags: Flags, classifier: ImageClassifier, name: str) -> tuple[int, float]:
    """Return the number of classes per image, and the least confidence of a label.

    Raises:
      UserError: more classes than there are, or a setting of the other kind of classifiers.
    """
    count = len(classifier.classes)
    if flags.top is not None and classifier.several:
        raise UserError(
            f"--top={flags.top}: {name} gives an image all labels from a confidence on; set "
            "--threshold"
        )
    if flags.threshold is not None and not classifier.several:
        raise UserError(
            f"--threshold={flags.threshold:g}: the classes of {name} exclude each other; set --top"
        )
    if flags.top is not None and flags.top > count:
        raise UserError(f"--top={flags.top}: the classifier has {count} classes; set at most that")
    threshold = THRESHOLD if flags.threshold is None else flags.threshold
    return flags.top or min(TOP, count), threshold


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
