"""Superclasses: a file that says of each class which wider one it belongs to (WordNet, BREEDS)."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.plain import from_json


class Superclasses(NamedTuple):
    """The superclass of each class.

    Attributes:
      of: (C,) int32, -1 for a class that the file leaves out.
      names: of the superclasses.
    """

    of: np.ndarray
    names: tuple[str, ...]

    def known(self, labels: np.ndarray) -> np.ndarray:
        """Rows of `labels` (N,), class numbers, that have a superclass.

        Raises:
          UserError: none has.
        """
        own = labels < len(self.of)
        rows = np.flatnonzero(own & (self.of[np.where(own, labels, 0)] >= 0))
        if not len(rows):
            raise UserError("superclasses: no example is of a class that the file names")
        return rows


def read_superclasses(path: str, class_names: Sequence[str]) -> Superclasses:
    """The superclasses of the classes named so.

    The file is a JSON object {class: superclass}, or has lines `CLASS SUPERCLASS` with a tab, a
    comma or else white space between. A class is given by its name, or else its number. What the
    file does not name is left out of what is measured, as BREEDS does (2008.04859).

    Raises:
      UserError: a file that cannot be read or is of another form, a class that there is not or that
        stands there twice, fewer than two superclasses.
    """
    where = f"superclasses {path}"
    pairs = _pairs(path, where)
    number = {str(i): i for i in range(len(class_names))}
    number |= {name: i for i, name in enumerate(class_names)}
    names = tuple(sorted({above for _, above in pairs}))
    if len(names) < 2:
        raise UserError(f"{where}: {len(names)} superclasses; expected two or more")
    of = np.full(len(class_names), -1, np.int32)
    for name, above in pairs:
        if name not in number:
            some = ", ".join(class_names[:3])
            raise UserError(f"{where}: no class {name!r} here; they are like {some}")
        if of[number[name]] >= 0:
            raise UserError(f"{where}: class {name!r} stands there twice")
        of[number[name]] = names.index(above)
    return Superclasses(of, names)


def _pairs(path: str, where: str) -> list[tuple[str, str]]:
    try:
        text = Path(path).read_text()
        if text.lstrip().startswith("{"):
            found = from_json(text, object_pairs_hook=list)
            if any(isinstance(above, (list, dict)) for _, above in found):
                raise UserError(f"{where}: expected an object {{class: superclass}}")
            return [(name, str(above)) for name, above in found]
    except (OSError, ValueError) as e:
        raise UserError(f"{where}: {getattr(e, 'strerror', None) or e}") from None
    pairs = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        separator = next((s for s in ("\t", ",") if s in line), r"\s+")
        parts = [part.strip() for part in re.split(separator, line.strip())]
        if len(parts) != 2 or not all(parts):
            raise UserError(f"{where}: line {number} is {line[:80]!r}; expected CLASS SUPERCLASS")
        pairs.append((parts[0], parts[1]))
    return pairs
