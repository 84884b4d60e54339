"""Test sets that differ from the training set in appearance and share its classes, or some of them,
or wider ones.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ssl_jax.core.errors import UserError, suggest
from ssl_jax.data.sources import Source, open_source
from ssl_jax.data.survey import read_alike
from ssl_jax.evals import features
from ssl_jax.evals.base import Subject
from ssl_jax.evals.checks import NotMeasurable, check_varied
from ssl_jax.evals.images import Labelled, Part
from ssl_jax.evals.superclasses import read_superclasses
from ssl_jax.objectives.base import Probe

_NAMED = re.compile(r"(\w+)=(.+)")
CLEAN = "clean"  # in the names of numbers: the images of the evaluation set
NO_CLASS = "-1"  # in ImageNet-9's file: a class of ImageNet that is in none of the nine


class ShiftedSet(NamedTuple):
    """A test set, with its classes numbered as others are.

    Attributes:
      source: the images.
      numbers: (K,) int, the number of each of its classes.
    """

    source: Source
    numbers: np.ndarray

    @property
    def classes(self) -> np.ndarray:
        """The numbers of the classes that it has images of."""
        assert self.source.labels is not None
        return np.unique(self.labels(np.flatnonzero(self.source.labels >= 0)))

    def part(self, examples: int) -> Part:
        """Return at most so many labelled images, drawn evenly over the classes."""
        assert self.source.labels is not None
        rows = np.flatnonzero(self.source.labels >= 0)
        return Part(self.source, rows).some(examples)

    def labels(self, index: np.ndarray) -> np.ndarray:
        """Return the number of the class of each labelled example (N,)."""
        assert self.source.labels is not None
        return self.numbers[self.source.labels[index]]

    def read(self, subject: Subject, probe: Probe, examples: int) -> Labelled:
        """Read the features of at most `examples` images, with their labels.

        Raises:
          NotMeasurable: no image can be read, or features that are not finite or all the same.
        """
        rows, index = read_features(subject, probe, self.part(examples))
        return Labelled(rows, self.labels(index))


def read_features(subject: Subject, probe: Probe, part: Part) -> tuple[np.ndarray, np.ndarray]:
    """Read the features (N, D) of the images of a part that can be read, and their index (N,).

    Raises:
      NotMeasurable: no image can be read, or features that are not finite or all the same.
    """
    images, source = subject.images, part.source
    read_alike(source, images.train.source.value_range)
    batches = images.batches(part, subject.side)
    (rows,), index = features.extract(subject.encoder, images.view, [probe], batches, images.mesh)
    if not len(index):
        raise NotMeasurable(f"{source.name}: none of {len(part.rows)} images can be read")
    check_varied(rows, f"{source.name}: {subject.what}")
    return rows, index


def open_labelled(spec: str) -> Source:
    """Open a test set with one label per image.

    Raises:
      UserError: there is no such set, or no image has a label.
    """
    source = open_source(spec, "eval")
    if source.labels is None or not (source.labels >= 0).any():
        raise UserError(
            f"{spec}: no image has a class; expected one folder per class, or other single labels"
        )
    return source


def open_shifted(spec: str, class_names: Sequence[str]) -> ShiftedSet:
    """Open a test set whose classes are among `class_names`, by name or by number.

    Raises:
      UserError: there is no such set, it has no labels, or classes that are not among those.
    """
    source = open_labelled(spec)
    return ShiftedSet(source, class_numbers(source.class_names, class_names, spec))


def class_numbers(names: Sequence[str], class_names: Sequence[str], where: str) -> np.ndarray:
    """Return the number of each of `names` (K,) among `class_names`: by name, or, if all names are
    whole numbers and not all of them names of classes, by that number (ImageNet-V2's folders).

    Raises:
      UserError: a name that is not among them; the message starts with `where`.
    """
    number = {name: i for i, name in enumerate(class_names)}
    missing = [name for name in names if name not in number]
    if missing and all(name.isdecimal() for name in names):
        number = {str(i): i for i in range(len(class_names))}
        names = [str(int(name)) for name in names]
        missing = [name for name in names if name not in number]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        near = suggest(missing[0], class_names)
        hint = near if near.startswith("did") else f"they are like {', '.join(class_names[:3])}"
        raise UserError(
            f"{where}: class {missing[0]!r}{more} is not among the {len(class_names)} classes of "
            f"the training set; {hint}"
        )
    return np.array([number[name] for name in names])


def wider_classes(
    path: str, class_names: Sequence[str], wider: Sequence[str], where: str = "classes"
) -> np.ndarray:
    """Return the number among `wider` of the wider class of each of `class_names` (C,), -1 for
    none. Messages start with `where`.

    The file has an entry `CLASS WIDER` per class, see `read_superclasses`; both by name or by
    number, of the names in order. "-1" stands for none, as in ImageNet-9's in_to_in9.json. Without
    a file the wider classes are those of the same name.

    Raises:
      UserError: a file that cannot be read, unknown classes, or a wider class that contains none.
    """
    if not path:
        of = np.full(len(class_names), -1)
        of[class_numbers(wider, class_names, f"{where}, without a file")] = np.arange(len(wider))
        return of
    superclasses = read_superclasses(path, class_names)
    known = [name for name in superclasses.names if name != NO_CLASS]
    unused = sorted(set(known) - set(wider))
    by_number = bool(unused) and all(name.isdecimal() for name in known)
    number = {name: i for i, name in enumerate(wider)}
    if by_number:
        number = {str(i): i for i in range(len(wider))}
    of_wider = np.array([number.get(name, -1) for name in superclasses.names])
    if unknown := [name for name in known if name not in number]:
        raise UserError(
            f"{where} {path}: no class {unknown[0]!r} in the test set; expected one of "
            f"{', '.join(wider[:5])}"
        )
    if empty := [name for i, name in enumerate(wider) if i not in of_wider]:
        raise UserError(f"{where} {path}: no class of the training set is a {empty[0]!r}")
    return np.where(superclasses.of >= 0, of_wider[superclasses.of], -1)


def named_specs(specs: Sequence[str], where: str) -> dict[str, str]:
    """Return name -> spec of "NAME=SPEC" or "SPEC", whose name is the end of its path.

    Raises:
      UserError: two sets of one name, or a name that the numbers of the clean images have.
    """
    named: dict[str, str] = {}
    for text in specs:
        match = _NAMED.fullmatch(text)
        name, spec = match.groups() if match else (_name_of(text), text)
        if name in named:
            raise UserError(f"{where}: two sets are called {name!r}; write NAME={spec}")
        if name == CLEAN or name.endswith(f"_{CLEAN}"):
            raise UserError(
                f"{where}: a set is called {name!r}, as the clean images are; write NAME={spec}"
            )
        named[name] = spec
    return named


def _name_of(spec: str) -> str:
    scheme, _, path = spec.partition(":")
    name = (path or scheme).rstrip("/").rpartition("/")[2]
    return re.sub(r"\W+", "_", name).strip("_") or scheme
