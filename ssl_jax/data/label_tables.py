"""Tables of labels: a row per example, a column per class."""

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.label_sets import LabelSets
from ssl_jax.data.sources.base import Source


def set_table(source: Source, table: np.ndarray, names: tuple[str, ...]) -> None:
    """Set the label sets and class names of `source`.

    Args:
      table: (N, C): 1 for a class that the example shows, 0 for one that it does not, -1 or NaN
        where that is not known.
      names: names of the C classes.

    Raises:
      UserError: a table of another length, with other values, or without any 1.
    """
    if table.shape != (len(source), len(names)):
        raise UserError(
            f"{source.name}: expected labels of shape ({len(source)}, {len(names)}), a row per "
            f"image, got {table.shape}"
        )
    if table.dtype.kind not in "iubf":
        raise UserError(f"{source.name}: labels are {table.dtype}; expected a table of 0 and 1")
    values = np.where(np.isnan(table), -1, table) if table.dtype.kind == "f" else table
    values = values.astype(np.int64) if values.dtype.kind in "ub" else values
    wrong = np.argwhere((values != 0) & (values != 1) & (values != -1))
    if len(wrong):
        row, column = wrong[0]
        raise UserError(
            f"{source.name}: label {table[row, column]} of class {names[column]} at index {row}; "
            "expected 1 if the image shows the class, 0 if not, -1 if that is not known"
        )
    if not (values == 1).any():
        raise UserError(f"{source.name}: no image shows any of its {len(names)} classes")
    source.class_names = names
    source.label_sets = LabelSets.of_table(values == 1)
    if (values == -1).any():
        source.unsure = LabelSets.of_table(values == -1)
