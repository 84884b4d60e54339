"""Shape bias, by images whose shape and texture are of different classes (1811.12231)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar, NamedTuple

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.sources import Source, open_source
from ssl_jax.evals.base import Subject
from ssl_jax.evals.images import Part
from ssl_jax.evals.robustness import RobustnessProtocol
from ssl_jax.evals.shifted_sets import read_features
from ssl_jax.evals.superclasses import read_superclasses

_NUMBER = re.compile(r"\d+$")


class Cues(NamedTuple):
    """Class numbers (N,) of the shape and of the texture of each image."""

    shape: np.ndarray
    texture: np.ndarray


class Stimuli(NamedTuple):
    """Images of conflicting cues.

    Attributes:
      source: the images.
      cues: their classes of shape and texture, numbers of `names`.
      of: (C,), the number of the class of `names` of each class of the training set, -1 for none.
      names: names of the classes that are decided for.
    """

    source: Source
    cues: Cues
    of: np.ndarray
    names: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class CueConflict(RobustnessProtocol[Stimuli]):
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
    """

    titles: ClassVar[Mapping[str, str]] = {
        "cue_conflict_shape_bias": "shape bias",
        "cue_conflict_shape": "share of decisions for the shape",
        "cue_conflict_texture": "share of decisions for the texture",
    }
    needs: ClassVar[str] = "labels, and images of conflicting cues (data)"

    data: str = ""
    classes: str = ""

    def measure(self, subject: Subject) -> dict[str, float]:
        source, cues, of, names = self.opened(subject)
        conflict = np.flatnonzero(cues.shape != cues.texture)
        rows, index = read_features(subject, subject.probe_of(self), Part(source, conflict))
        means = mean_probabilities(self.trained(subject).probabilities(rows), of, len(names))
        return shape_bias(decisions(means), Cues(cues.shape[index], cues.texture[index]))

    def open(self, subject: Subject) -> Stimuli:
        """Open the images.

        Raises:
          UserError: images without file names, or with names of another form or other classes.
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
        return Stimuli(source, cues, of, names)


def read_cues(files: Sequence[str], names: Sequence[str]) -> Cues:
    """Read the classes of shape and texture from file names.

    Text up to an underscore before a class is ignored, as in the authors' code; a class may contain
    underscores, digits and dashes.

    Raises:
      UserError: a name of another form, or a class that is not among `names`.
    """
    number = {name: i for i, name in enumerate(names)}

    def number_of(text: str) -> int:
        """Return the number of the class that a text ends with, -1 for none."""
        for word in (text, _NUMBER.sub("", text)):
            parts = word.split("_")
            for start in range(len(parts)):  # the longest name first: polar_bear before bear
                if (name := "_".join(parts[start:])) in number:
                    return number[name]
        return -1

    cues = np.empty((2, len(files)), np.int64)
    for i, file in enumerate(files):
        stem = PurePosixPath(file).stem
        dashes = [at for at, letter in enumerate(stem) if letter == "-"]
        if not dashes:
            raise UserError(f"cue_conflict.data: {file}: expected SHAPE-TEXTURE, as cat7-elephant1")
        pairs = [(stem[:at], stem[at + 1 :]) for at in reversed(dashes)]
        numbers = [tuple(map(number_of, pair)) for pair in pairs]
        known = [pair for pair in numbers if min(pair) >= 0]
        if not known:
            unknown = next(t for t, n in zip(pairs[0], numbers[0], strict=True) if n < 0)
            raise UserError(
                f"cue_conflict.data: {file}: no class {_NUMBER.sub('', unknown)!r}; expected one "
                f"of {', '.join(names[:5])}; cue_conflict.classes can name a file of them"
            )
        cues[:, i] = known[0]
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
