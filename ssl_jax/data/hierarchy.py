"""Hierarchies of classes: files of pairs, and the wider classes that they add to labels."""

import re
from pathlib import Path

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.plain import from_json
from ssl_jax.data.sources.base import Source


def add_wider_classes(source: Source, path: str) -> None:
    """Add to the label sets of `source` all classes above their labels, by the file `path`.

    A class is given by its name. Names that are not among the source's classes become classes
    after them.

    Raises:
      UserError: a source without label sets, or see `read_pairs`.
    """
    if source.label_sets is None:
        raise UserError(f"data.hierarchy: {source.name} has no lists of labels to add classes to")
    pairs = read_pairs(path, f"data.hierarchy {path}")
    names = tuple(dict.fromkeys([*source.class_names, *(name for pair in pairs for name in pair)]))
    number = {name: i for i, name in enumerate(names)}
    parents = np.array([[number[name] for name in pair] for pair in pairs]).reshape(-1, 2)
    source.label_sets = source.label_sets.closed(parents, len(names))
    source.class_names = names


def read_pairs(path: str, where: str) -> list[tuple[str, str]]:
    """Read a class and a class above it per entry, from a JSON object {class: above} or from lines
    `CLASS ABOVE`, separated by a tab, a comma or else white space.

    Raises:
      UserError: a file that cannot be read or has another format; it starts with `where`.
    """
    try:
        text = Path(path).expanduser().read_text("utf-8-sig")
        if text.lstrip().startswith("{"):
            entries = from_json(text, object_pairs_hook=list)
            if any(isinstance(above, (list, dict)) for _, above in entries):
                raise UserError(f"{where}: expected an object {{class: superclass}}")
            return [(name, str(above)) for name, above in entries]
    except (OSError, ValueError) as e:
        raise UserError(f"{where}: {getattr(e, 'strerror', None) or e}") from None
    pairs = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        separator = next((s for s in ("\t", ",") if s in line), r"\s+")
        parts = [part.strip() for part in re.split(separator, line.strip())]
        if len(parts) != 2 or not all(parts):
            raise UserError(f"{where}: line {number}: expected CLASS SUPERCLASS, got {line[:80]!r}")
        pairs.append((parts[0], parts[1]))
    return pairs
