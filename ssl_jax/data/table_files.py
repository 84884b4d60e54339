"""Files of tables by name: `FILES#image=COLUMN&label=COLUMN&caption=COLUMN&name=COLUMN` names
columns, `label=` selects no column, `FOLDER#split=NAME` is one split of a folder, and `FOLDER#.` is
all of its files.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ssl_jax.core.errors import UserError, suggest
from ssl_jax.data.columns import COLUMNS
from ssl_jax.data.splits import choose_files
from ssl_jax.data.tables import TableFile, TableSource, parallel

SPLIT = "split"  # key after "#"


class Request(NamedTuple):
    """The parts of the text after a scheme.

    Attributes:
      pattern: a file, a folder, a glob or a URL.
      columns: the columns that the user names, by content.
      split: the split that the user names, or "".
      whole: true for all files of a folder (`#.`).
    """

    pattern: str
    columns: dict[str, str]
    split: str
    whole: bool


def parse(scheme: str, path: str) -> Request:
    """Parse FILES#COLUMNS.

    Raises:
      UserError: an unknown key after "#".
    """
    pattern, mark, fragment = path.rpartition("#")
    if not mark or Path(path).expanduser().exists():
        return Request(path, {}, "", False)
    columns: dict[str, str] = {}
    whole, split = False, ""
    for term in fragment.split("&"):
        key, equals, value = term.partition("=")
        if equals and key in COLUMNS:
            columns[key] = value
        elif equals and key == SPLIT and value:
            split = value
        elif term == ".":
            whole = True
        else:
            known = (*COLUMNS, SPLIT)
            raise UserError(f"{scheme}:{path}: unknown {term!r} after '#'; {suggest(key, known)}")
    return Request(pattern, columns, split, whole)


def load(
    scheme: str,
    path: str,
    which: str,
    open_table: Callable[[str, str], TableFile],
    paths: Sequence[str],
    request: Request,
    in_folder: bool,
) -> TableSource:
    """Open the rows of the files `paths`: of those of a split if the request names one, or in a
    folder of the training or held-out ones, see `splits.choose_files`.

    Args:
      which: "train" or "eval".
      open_table: opens a file, from the name of the data set and a path.

    Raises:
      UserError: no such split; as `TableSource`.
    """
    part, left_out = "", {}  # type: tuple[str, dict[str, int]]
    if request.split:
        paths = of_split(f"{scheme}:{path}", paths, request.split)
    elif in_folder and not request.whole:
        paths, left_out, part = choose_files(paths, which)
    name = f"{scheme}:{path}" + (f" ({part} files)" if part else "")
    return TableSource(
        name, list(parallel(lambda p: open_table(name, p), paths)), request.columns, left_out
    )


def of_split(name: str, paths: Sequence[str], split: str) -> list[str]:
    """Select the files of a split, `train-00000-of-00002.parquet` or `train/0000.parquet`.

    Raises:
      UserError: there is none.
    """
    splits = [_split_of(path) for path in paths]
    chosen = [path for path, own in zip(paths, splits, strict=True) if own == split]
    if not chosen:
        raise UserError(f"{name}: no split {split!r}; it has {', '.join(dict.fromkeys(splits))}")
    return chosen


def _split_of(path: str) -> str:
    """Return the name of the split that a file holds: its own name before the number of the shard,
    or that of its folder.
    """
    *_, folder, name = ["", *path.split("/")]
    stem = name.partition(".")[0]
    match = re.fullmatch(r"(.+?)-\d+(?:-of-\d+)?(?:-[0-9a-f]+)?", stem)
    if match and match[1] != "data":
        return match[1]
    return folder if match or stem.isdigit() else stem
