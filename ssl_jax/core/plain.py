"""Conversion of texts to plain values: JSON and Python literals. Any bad text is a ValueError."""

import ast
import json
import math
import warnings
from typing import Any


def from_json(text: str | bytes, **options: Any) -> Any:
    """Parse JSON with `json.loads`, but raise ValueError, not RecursionError, for "[[[...".

    Raises:
      ValueError: not valid JSON.
    """
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def from_literal(text: str) -> Any:
    """Parse a Python literal made of the types of JSON and of tuples.

    Raises:
      ValueError: not a literal, or one of other types: bytes, sets, complex numbers.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd escapes in the user's text
            value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as e:
        raise ValueError(f"{text[:80]!r} is not a literal: {e}") from None
    if not _is_plain(value):
        raise ValueError(f"{text[:80]!r} holds more than numbers, texts, lists and dicts")
    return value


def is_number(value: Any) -> bool:
    """True if a JSON value is a number that fits a float, including NaN and infinity."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        math.isnan(value)
    except OverflowError:  # an integer of hundreds of digits
        return False
    return True


def is_whole(value: Any) -> bool:
    """True if a JSON value is a non-negative integer, as counts of steps and examples are."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


class Text(str):
    """A value as typed on a command line; the declared type of its key determines its meaning."""


def literal(text: str) -> Any:
    """Convert `text` without a declared type: a Python literal ("0.1", "(1, 5)", "True"); true,
    false or none in any case; otherwise the text itself.
    """
    try:
        return from_literal(text)
    except ValueError:
        return {"true": True, "false": False, "none": None}.get(text.lower(), str(text))


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    return value is None or isinstance(value, (bool, int, float, str))
