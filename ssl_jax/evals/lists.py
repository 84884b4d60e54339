"""Fixed lists of labelled examples: text files that name them, as SimCLR's 1 % and 10 % do."""

from collections import defaultdict
from pathlib import Path

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.sources import Source


def listed_rows(path: str, source: Source) -> np.ndarray:
    """Return the rows of `source` that the file lists, (n,) ascending, without duplicates.

    A line holds a name and, after white space, anything else (a label is not read: the source's
    labels are used). A name matches an example if one of the two is the end of the other, folder by
    folder: `n01440764_10026.JPEG` names `train/n01440764/n01440764_10026.JPEG`.

    Raises:
      UserError: a file that cannot be read or is empty, a source without names, a name that matches
        no example or several.
    """
    try:
        text = Path(path).expanduser().read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(
            f"list {path}: {getattr(e, 'strerror', None) or 'not a text file'}"
        ) from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"list {path}: it is empty; expected one example name per line")
    if source.names is None:
        raise UserError(f"list {path}: the examples of {source.name} have no names")
    entries = [(line, line.split()[0]) for line in lines]
    last_parts = {_last(name) for pair in entries for name in pair}
    places: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(source.names):
        if (last := _last(name)) in last_parts:
            places[last].append(row)

    def rows_of(name: str) -> list[int]:
        candidates = ((row, source.names[row]) for row in places.get(_last(name), ()))  # type: ignore[index]
        return [row for row, other in candidates if _ends(other, name) or _ends(name, other)]

    matches, unknown = [], []
    for line, name in entries:
        rows = rows_of(line) or rows_of(name)  # a name may hold spaces
        if len(rows) > 1:
            raise UserError(
                f"list {path}: {name} matches {len(rows)} examples of {source.name}, such as "
                f"{source.names[rows[0]]}; give more of its path"
            )
        matches += rows
        if not rows:
            unknown.append(name)
    if unknown:
        raise UserError(
            f"list {path}: {len(unknown)} of {len(lines)} names match no example of {source.name}, "
            f"such as {unknown[0]}; expected names like {source.names[0]}"
        )
    return np.unique(matches)


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _ends(name: str, end: str) -> bool:
    return f"/{name}".endswith(f"/{end}")
