"""Superclasses: a file that assigns each class to a wider one (WordNet, BREEDS)."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.fragments import split_fragment
from ssl_jax.data.hierarchy import read_pairs
from ssl_jax.evals.class_hierarchy import BREEDS, Hierarchy, Recipe


class Superclasses(NamedTuple):
    """The superclass of each class.

    Attributes:
      of: (C,) int32, -1 for a class that the file leaves out.
      names: names of the superclasses.
    """

    of: np.ndarray
    names: tuple[str, ...]

    def rows(self, labels: np.ndarray) -> np.ndarray:
        """Return the rows of `labels` (N,), class numbers, that have a superclass.

        Raises:
          UserError: there are none.
        """
        in_range = labels < len(self.of)
        rows = np.flatnonzero(in_range & (self.of[np.where(in_range, labels, 0)] >= 0))
        if not len(rows):
            raise UserError("superclasses: no example belongs to a class that the file names")
        return rows


def read_superclasses(path: str, class_names: Sequence[str]) -> Superclasses:
    """Read the superclasses of the classes `class_names`.

    The file is a JSON object {class: superclass}, or has lines `CLASS SUPERCLASS`, separated by a
    tab, a comma or else white space. A class is given by its name, or else its number. Classes that
    the file does not name are left out of the measurement, as BREEDS does (2008.04859).

    `FILE#level=3` takes the nodes of a level of a hierarchy, the longest path from the root, for
    superclasses, and `FILE#NAME` those of one of `class_hierarchy.BREEDS`, with as many classes of
    each; `&ancestor=NODE` takes those below a node alone and `&subclasses=4` draws so many classes
    of each. Then the file has an edge per line, `NODE NODE_BELOW`, as BREEDS'
    `class_hierarchy.txt`; the leaves are the classes by name. A class below several of the nodes
    belongs to the first by name.

    Raises:
      UserError: a file that cannot be read or has another format, a class that does not exist or is
        listed twice, fewer than two superclasses.
    """
    where = f"superclasses {path}"
    file, recipe = _recipe(path, where)
    if recipe is not None:
        hierarchy = Hierarchy(read_pairs(file, where), class_names, where)
        pairs = _first_only(hierarchy.superclasses(recipe))
    else:
        pairs = read_pairs(path, where)
    number = {str(i): i for i in range(len(class_names))}
    number |= {name: i for i, name in enumerate(class_names)}
    names = tuple(sorted({above for _, above in pairs}))
    if len(names) < 2:
        raise UserError(f"{where}: expected two or more superclasses, got {len(names)}")
    of = np.full(len(class_names), -1, np.int32)
    for name, above in pairs:
        if name not in number:
            examples = ", ".join(class_names[:3])
            raise UserError(f"{where}: no class {name!r} here; expected classes like {examples}")
        if of[number[name]] >= 0:
            raise UserError(f"{where}: class {name!r} is listed twice")
        of[number[name]] = names.index(above)
    return Superclasses(of, names)


def _recipe(path: str, where: str) -> tuple[str, Recipe | None]:
    """Split `FILE#RECIPE`; None for a file of pairs."""
    file, name, keys = split_fragment("superclasses", path, ("level", "ancestor", "subclasses"))
    if not name and not keys:
        return path, None
    if name and (keys or name not in BREEDS):
        raise UserError(f"{where}: expected level=N or one of {', '.join(BREEDS)} after '#'")
    if name:
        return str(file), BREEDS[name]
    numbers = {}
    for key in ("level", "subclasses"):
        text = keys.get(key, "0")
        if not text.isdecimal() or (key == "level" and not int(text)):
            raise UserError(f"{where}: expected {key}=N after '#', N a number from 1; got {text!r}")
        numbers[key] = int(text)
    return str(file), Recipe(numbers["level"], numbers["subclasses"], keys.get("ancestor", ""))


def _first_only(below: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """Return pairs of a class and its first superclass."""
    first: dict[str, str] = {}
    for above, classes in below.items():
        for name in classes:
            first.setdefault(name, above)
    return list(first.items())
