"""Conversion of labels, numbers or names, to class numbers."""

from collections.abc import Sequence

import numpy as np

from ssl_jax.core.errors import UserError

MAX_CLASSES = 1_000_000
_LARGE = 2**62  # limit that larger numbers are clipped to


def number_labels(
    values: Sequence[int | str | None] | np.ndarray, name: str, class_names: Sequence[str] = ()
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Return labels (N,) int32, -1 for none, and the class names; (None, ()) without any label.

    Args:
      values: class numbers (also bools, or floats that are whole) or class names; None, NaN or -1
        for an example without a label.
      name: name of the data set, for messages.
      class_names: by default the numbers 0 to max, or the names that occur, sorted.

    Raises:
      UserError: an invalid class number, a name that is not in `class_names`, or a mixture of
        numbers and names.
    """
    if isinstance(values, np.ndarray):
        numbers = _whole(values, name)
    else:
        kinds = {type(v) for v in values if v is not None}
        if kinds == {str}:
            return _number_names(values, name, class_names)
        if not kinds <= {int, bool, float}:
            types = " and ".join(sorted(t.__name__ for t in kinds))
            raise UserError(f"{name}: labels are {types}; expected all numbers or all names")
        if float in kinds:
            floats = [np.nan if v is None else v for v in values]
            numbers = _whole(np.array(floats, np.float64), name)
        else:
            numbers = np.array(
                [-1 if v is None else min(max(int(v), -_LARGE), _LARGE) for v in values], np.int64
            )
    high = int(numbers.max(initial=-1))
    if high < 0 and numbers.min(initial=-1) == -1 and not class_names:
        return None, ()
    classes = len(class_names) or min(high + 1, MAX_CLASSES)
    wrong = np.flatnonzero((numbers < -1) | (numbers >= classes))
    if wrong.size:
        raise UserError(
            f"{name}: label {numbers[wrong[0]]} at index {wrong[0]} is out of range; expected "
            f"0 to {classes - 1}, or -1 for none"
        )
    return numbers.astype(np.int32), tuple(class_names) or tuple(map(str, range(classes)))


def number_texts(
    texts: Sequence[str], name: str, class_names: Sequence[str] = ()
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Apply `number_labels` to texts, which are numbers if all look like one; "" is none."""
    values: list[int | str | None] = [t or None for t in texts]
    if all(_is_number(t) for t in texts if t):
        values = [(int(t) if len(t) < 20 else _LARGE) if t else None for t in texts]
    return number_labels(values, name, class_names)


def _whole(values: np.ndarray, name: str) -> np.ndarray:
    """Convert integers, bools or floats to (N,) int64, -1 for NaN."""
    if values.dtype.kind != "f":
        return values.astype(np.int64)
    clipped = np.where(np.isnan(values), -1, np.clip(values, -_LARGE, _LARGE))
    wrong = np.flatnonzero(clipped != np.floor(clipped))
    if wrong.size:
        raise UserError(
            f"{name}: label {values[wrong[0]]:g} at index {wrong[0]} is not a class; expected "
            "whole numbers, or NaN for none"
        )
    return clipped.astype(np.int64)


def _number_names(
    values: Sequence, name: str, class_names: Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    names = tuple(class_names) or tuple(sorted({v for v in values if v is not None}))
    number: dict[str | None, int] = {n: i for i, n in enumerate(names)} | {None: -1}
    unknown = next((v for v in values if v not in number), None)
    if unknown is not None:
        raise UserError(f"{name}: label {unknown!r} is not one of its {len(names)} classes")
    return np.array([number[v] for v in values], np.int32), names


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isascii() and text.removeprefix("-").isdigit()
