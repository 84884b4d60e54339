"""`csv:FILE`: a table of image files with their labels, one row per image, with a header.

The labels are either columns of 0 and 1, one per class, or one column of names or numbers, several
of them separated by ";" or "|". `csv:FILE#labels=super:*` takes the columns of 0 and 1 whose names
match, `#label=COLUMN` the column of labels, `#image=COLUMN` that of the files and `#images=FOLDER`
the folder that they lie in, relative to that of the table.
"""

import csv
import fnmatch
import re
from pathlib import Path

import numpy as np

from ssl_jax.core.errors import UserError, suggest
from ssl_jax.data.columns import LABEL_COLUMNS
from ssl_jax.data.fragments import split_fragment
from ssl_jax.data.label_sets import number_label_sets
from ssl_jax.data.label_tables import set_table
from ssl_jax.data.labels import number_texts
from ssl_jax.data.sources.folder import FolderSource, lies_in

IMAGE_COLUMNS = ("file", "file_name", "filename", "path", "image", "img")
KEYS = ("image", "images", "label", "labels")
_SEPARATOR = re.compile(r"\s*[;|]\s*")


def load(path: str, split: str) -> FolderSource:
    """Open the images of a table, in its order.

    A column of labels in which no row has more than one is single labels. In columns of 0 and 1, -1
    or nothing says that it is not known whether the image shows the class.

    Raises:
      UserError: no such file, column or image, a row of another length, or an invalid label.
    """
    file, word, keys = split_fragment("csv", path, KEYS)
    name = f"csv:{path}"
    if word:
        raise UserError(f"{name}: invalid {word!r} after '#'; expected {'=... or '.join(KEYS)}=...")
    if "label" in keys and "labels" in keys:
        raise UserError(f"{name}: expected label= or labels= after '#', not both")
    header, rows = _read(name, file)
    image = _column(name, header, keys.get("image"), IMAGE_COLUMNS)
    if image is None:
        raise UserError(
            f"{name}: no column {' or '.join(IMAGE_COLUMNS)}; it has {', '.join(header[:9])}; name "
            "one with '#image=COLUMN'"
        )
    folder = file.parent / keys.get("images", ".")
    paths = [row[image] for row in rows]
    for number, text in enumerate(paths, 1):
        if not text or not lies_in(text, str(folder.absolute())):
            raise UserError(
                f"{name}: row {number}: {text[:80]!r} is no path in {folder}; name another folder "
                "with '#images=FOLDER'"
            )
    if not (folder / paths[0]).is_file():
        raise UserError(
            f"{name}: no file {folder / paths[0]}; name the folder with '#images=FOLDER'"
        )
    source = FolderSource(name, folder, paths)
    label = None if "labels" in keys else _column(name, header, keys.get("label"), LABEL_COLUMNS)
    if label is not None:
        _set_labels(source, [row[label] for row in rows])
    else:
        _set_columns(source, header, rows, image, keys.get("labels", "*"))
    return source


def _read(name: str, file: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            header, *rows = [row for row in csv.reader(text) if row]
    except (OSError, ValueError, csv.Error) as e:
        reason = getattr(e, "strerror", None) or "no text with a header"
        raise UserError(f"{name}: {file}: {reason}") from None
    if not rows:
        raise UserError(f"{name}: the table has a header and no row")
    if wrong := next((n for n, row in enumerate(rows, 1) if len(row) != len(header)), 0):
        raise UserError(
            f"{name}: row {wrong} has {len(rows[wrong - 1])} cells; expected {len(header)}"
        )
    return header, [[cell.strip() for cell in row] for row in rows]


def _column(name: str, header: list[str], named: str | None, usual: tuple[str, ...]) -> int | None:
    """Return the number of a column, by the name that the user gives or a usual one."""
    if named is not None and named not in header:
        raise UserError(f"{name}: no column {named!r}; {suggest(named, header)}")
    return next((header.index(c) for c in ([named] if named else usual) if c in header), None)


def _set_labels(source: FolderSource, texts: list[str]) -> None:
    values = [[v for v in _SEPARATOR.split(text) if v] for text in texts]
    if all(len(some) < 2 for some in values):
        source.labels, source.class_names = number_texts(texts, source.name)
        return
    numeric = all(v.isdecimal() for some in values for v in some)
    sets = [[int(v) for v in some] for some in values] if numeric else values
    source.label_sets, source.class_names = number_label_sets(sets, source.name)


def _set_columns(
    source: FolderSource, header: list[str], rows: list[list[str]], image: int, pattern: str
) -> None:
    """Set the labels by the columns of 0 and 1 that match a pattern; without any column but the
    images' there are no labels.
    """
    matching = [i for i, c in enumerate(header) if i != image and fnmatch.fnmatchcase(c, pattern)]
    if not matching:
        if pattern == "*":
            return
        raise UserError(f"{source.name}: no column matches {pattern!r}; it has {header[:9]}")
    names = tuple(header[i] for i in matching)
    try:
        table = np.array([[float(row[i] or "nan") for i in matching] for row in rows])
    except ValueError:
        raise UserError(
            f"{source.name}: the columns {', '.join(names[:5])} are not all of 0 and 1; select the "
            "classes with '#labels=PATTERN', or a column of labels with '#label=COLUMN'"
        ) from None
    set_table(source, table, names)
