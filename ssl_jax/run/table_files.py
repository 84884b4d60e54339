"""Tables of results as files: .csv, .json (a list of objects) and .parquet."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ssl_jax.core.errors import UserError
from ssl_jax.core.files import replacing

SUFFIXES = (".csv", ".json", ".parquet")
SEPARATOR = ";"  # of the values of a list, which the data source csv: reads
Columns = Mapping[str, Sequence[Any]]


def check(path: Path) -> None:
    """Check, before anything is computed, that a table and its page can be written.

    Raises:
      UserError: an unknown suffix, a folder, or a folder that does not exist.
    """
    if path.suffix not in SUFFIXES:
        expected = ", ".join(f"FILE{suffix}" for suffix in SUFFIXES)
        raise UserError(f"--output={path}: expected one of {expected}")
    if path.is_dir():
        raise UserError(f"--output={path} is a folder; name a file")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--output={path}: no folder {path.parent}")


def write(path: Path, columns: Columns) -> None:
    """Write columns of equal length; the suffix of the name determines the format. In a .csv the
    values of a list are joined by `SEPARATOR`.

    Raises:
      UserError: the file cannot be written.
    """
    if path.suffix == ".csv":
        columns = {name: [_cell(value) for value in values] for name, values in columns.items()}
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    try:
        with replacing(path) as temporary:
            if path.suffix == ".csv":
                pa.csv.write_csv(table, temporary)
            elif path.suffix == ".parquet":
                pa.parquet.write_table(table, temporary)
            else:
                text = json.dumps(table.to_pylist(), ensure_ascii=False, indent=1)
                temporary.write_text(f"{text}\n", encoding="utf-8")
    except OSError as e:
        raise UserError(f"cannot write {path}: {e.strerror or e}") from None


def _cell(value: Any) -> Any:
    return SEPARATOR.join(map(str, value)) if isinstance(value, list) else value
