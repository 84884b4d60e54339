"""Shape bias, by images whose shape and texture are of different classes (1811.12231)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar, NamedTuple

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.sources import Source, open_source
from ssl_jax.evals.base import AtLayer, Subject
from ssl_jax.evals.classifiers import Kind, trained
from ssl_jax.evals.images import Part
from ssl_jax.evals.shifted_sets import read_features
from ssl_jax.evals.superclasses import read_superclasses

_NUMBER = re.compile(r"\d+$")


class Cues(NamedTuple):
    """Class numbers (N,) of the shape and of the texture of each image."""

    shape: np.ndarray
    texture: np.ndarray


@dataclass(frozen=True, kw_only=True)
class CueConflict(AtLayer):
    """Decisions for the shape and for the texture of an image.

    A class of `classes` has the mean probability of its classes of the training set; the largest
    decides, the first by name among equals. Images whose shape and texture are of one class are
    left out. `cue_conflict_shape` and `cue_conflict_texture` are the shares of decisions for
    either, `cue_conflict_shape_bias` is the first over the sum of both.

    Attributes:
      data: images as --data takes them, with file names SHAPE-TEXTURE, each optionally followed by
        a number: `cat/cat7-elephant1.png`; without them nothing is measured.
      classes: file that assigns classes of the training set to those of the names, such as the 16
        of the paper; see `superclasses.read_superclasses`. By default they are the same.
      classifier: see `classifiers.trained`.
    """

    titles: ClassVar[Mapping[str, str]] = {
        "cue_conflict_shape_bias": "shape bias",
        "cue_conflict_shape": "share of decisions for the shape",
        "cue_conflict_texture": "share of decisions for the texture",
    }
    needs: ClassVar[str] = "labels, and images of conflicting cues (data)"

    data: str = ""
    classes: str = ""
    classifier: Kind = "linear"

    def applies(self, subject: Subject) -> bool:
        return bool(self.data) and super().applies(subject)

    def check(self, subject: Subject) -> None:
        super().check(subject)
        self._open(subject)

    def measure(self, subject: Subject) -> dict[str, float]:
        classifier = trained(self.classifier, self, subject)
        source, cues, of, names = self._open(subject)
        conflict = np.flatnonzero(cues.shape != cues.texture)
        rows, index = read_features(subject, subject.probe_of(self), Part(source, conflict))
        means = mean_probabilities(classifier.probabilities(rows), of, len(names))
        return shape_bias(decisions(means), Cues(cues.shape[index], cues.texture[index]))

    def _open(self, subject: Subject) -> tuple[Source, Cues, np.ndarray, Sequence[str]]:
        """Return the images, their cues, and the number among the returned names of each class (C,)
        of the training set, -1 for none.
        """
        of, names = np.arange(subject.classes), tuple(subject.class_names)
        if self.classes:
            of, names = read_superclasses(self.classes, subject.class_names)
        source = open_source(self.data, "eval")
        if source.names is None:
            raise UserError(f"cue_conflict.data: {self.data} has no file names; give a folder")
        cues = read_cues(source.names, names)
        if not (cues.shape != cues.texture).any():
            raise UserError(f"cue_conflict.data: no image of {self.data} has conflicting cues")
        return source, cues, of, names


def read_cues(files: Sequence[str], names: Sequence[str]) -> Cues:
    """Read the classes of shape and texture from file names.

    Text up to an underscore before the shape's class is ignored, as in the authors' code.

    Raises:
      UserError: a name of another form, or a class that is not among `names`.
    """
    number = {name: i for i, name in enumerate(names)}

    def number_of(text: str, file: str) -> int:
        word = _NUMBER.sub("", text)
        for name in (text, word, word.rpartition("_")[2]):
            if name in number:
                return number[name]
        raise UserError(
            f"cue_conflict.data: {file}: no class {word!r}; expected one of {', '.join(names[:5])}"
            "; cue_conflict.classes can name a file of them"
        )

    cues = np.empty((2, len(files)), np.int64)
    for i, file in enumerate(files):
        shape, dash, texture = PurePosixPath(file).stem.rpartition("-")
        if not dash:
            raise UserError(f"cue_conflict.data: {file}: expected SHAPE-TEXTURE, as cat7-elephant1")
        cues[:, i] = number_of(shape, file), number_of(texture, file)
    return Cues(*cues)


def mean_probabilities(probabilities: np.ndarray, of: np.ndarray, count: int) -> np.ndarray:
    """Return the mean probability (N, count) of the classes of each wider class.

    Args:
      probabilities: (N, C).
      of: (C,), the number of the wider class of each class, -1 for none.
    """
    members = of[:, None] == np.arange(count)
    return probabilities @ (members / members.sum(0))


def decisions(probabilities: np.ndarray) -> np.ndarray:
    """Return the class (N,) of the largest of (N, K), the first among equals, -1 if all are 0."""
    return np.where(probabilities.max(1) > 0, probabilities.argmax(1), -1)


def shape_bias(decided: np.ndarray, cues: Cues) -> dict[str, float]:
    """Compute the numbers from decisions (N,) for images whose shape and texture differ; the bias
    is NaN if no decision is for either.
    """
    shape, texture = (float(np.mean(decided == cue)) for cue in cues)
    bias = shape / (shape + texture) if shape + texture else float("nan")
    return {
        "cue_conflict_shape": shape,
        "cue_conflict_texture": texture,
        "cue_conflict_shape_bias": bias,
    }
