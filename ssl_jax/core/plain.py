"""Texts to plain values, JSON or Python literals; a ValueError at the worst, whatever the text."""

import ast
import json
import math
import warnings
from typing import Any


def from_json(text: str | bytes, **options: Any) -> Any:
    """`json.loads`, which raises RecursionError for "[[[...".

    Raises:
      ValueError: no JSON.
    """
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def from_literal(text: str) -> Any:
    """The value of a Python literal, made of what JSON has and of tuples.

    Raises:
      ValueError: none, or one of other things: bytes, sets, complex numbers.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes, which are what the user wrote
            value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as e:
        raise ValueError(f"{text[:80]!r} is no literal: {e}") from None
    if not _is_plain(value):
        raise ValueError(f"{text[:80]!r} holds more than numbers, texts, lists and dicts")
    return value


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number that a float holds; NaN and infinity are."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        math.isnan(value)
    except OverflowError:  # an integer of hundreds of digits
        return False
    return True


def is_whole(value: Any) -> bool:
    """Whether a JSON value is an integer that counts steps, examples and the like."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


class Text(str):
    """A value as it was typed on a command line: the declared type of its key says what it is."""


def literal(text: str) -> Any:
    """What `text` is where no type is known: a Python literal ("0.1", "(1, 5)", "True"); true,
    false or none, in capitals or not; or else the text itself.
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
