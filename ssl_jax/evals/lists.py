"""Fixed lists of labelled examples: text files that name them, as SimCLR's 1 % and 10 % do."""

from collections import defaultdict
from pathlib import Path

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.sources import Source


def listed_rows(path: str, source: Source) -> np.ndarray:
    """Rows of `source` that the file names, (n,) ascending, each once.

    A line holds a name, and after white space whatever else (a label: it is not read, labels are
    those of the source). A name is that of an example if one of the two is the end of the other,
    folder by folder: `n01440764_10026.JPEG` names `train/n01440764/n01440764_10026.JPEG`.

    Raises:
      UserError: a file that cannot be read or names nothing, a source without names, a name of no
        example or of several.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"list {path}: {getattr(e, 'strerror', None) or 'not a text'}") from None
    lines = [line for line in lines if line]
    if not lines:
        raise UserError(f"list {path}: it is empty; expected the name of an example a line")
    if source.names is None:
        raise UserError(f"list {path}: the examples of {source.name} have no names")
    asked = [(line, line.split()[0]) for line in lines]
    wanted = {_last(name) for pair in asked for name in pair}
    places: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(source.names):
        if (last := _last(name)) in wanted:
            places[last].append(row)

    def rows_of(name: str) -> list[int]:
        known = ((row, source.names[row]) for row in places.get(_last(name), ()))  # type: ignore[index]
        return [row for row, other in known if _ends(other, name) or _ends(name, other)]

    found, unknown = [], []
    for line, name in asked:
        rows = rows_of(line) or rows_of(name)  # a name may hold spaces
        if len(rows) > 1:
            raise UserError(
                f"list {path}: {name} names {len(rows)} examples of {source.name}, "
                f"{source.names[rows[0]]} for one; give more of its path"
            )
        found += rows
        if not rows:
            unknown.append(name)
    if unknown:
        raise UserError(
            f"list {path}: {len(unknown)} of {len(lines)} names are no example of {source.name}, "
            f"{unknown[0]} for one; names there are like {source.names[0]}"
        )
    return np.unique(found)


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _ends(name: str, end: str) -> bool:
    return f"/{name}".endswith(f"/{end}")
