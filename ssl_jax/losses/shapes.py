"""Shapes of the arguments of public functions, checked with chex while they are traced."""

import functools
import re
import string
from typing import Any

import chex
import jax.numpy as jnp
import numpy as np

_ARGUMENTS = re.compile(r"((?:\w+, )*\w+) \(([^)]*)\)( int)?")


def check_shapes(expected: str, *arrays: Any) -> None:
    """Require the shapes that a line states, such as "tico: x, y (B, d), covariance (d, d)".

    A name in brackets is a size, the same wherever it stands; `2B` is twice that size. `...` stands
    for any number of dimensions, the same in all arguments. `int` after the brackets requires whole
    numbers. An array that is None is not checked.

    Raises:
      ValueError: another shape or type; one line that starts with the function's name.
    """
    sizes = {"": 1}
    for array, (names, whole) in zip(arrays, _arguments(expected), strict=True):
        try:
            if array is not None:
                _check(array, names, whole, sizes)
        except AssertionError:
            function, _, arguments = expected.partition(": ")
            actual = " and ".join(
                f"{np.shape(x)} {jnp.result_type(x)}" for x in arrays if x is not None
            )
            raise ValueError(f"{function}: expected {arguments}, got {actual}") from None


@functools.cache
def _arguments(expected: str) -> list[tuple[list[str], bool]]:
    """Split a line into the names of the sizes of each argument, and whether it is whole."""
    return [
        ([size for size in sizes.split(", ") if size], bool(whole))
        for arguments, sizes, whole in _ARGUMENTS.findall(expected)
        for _ in arguments.split(", ")
    ]


def _check(array: Any, names: list[str], whole: bool, sizes: dict[str, int]) -> None:
    """Check an argument against the `sizes` of those before it, and add its own."""
    if "..." in names:
        at, count = names.index("..."), np.ndim(array) - len(names) + 1
        chex.assert_equal(sizes.setdefault("...", count), count)
        names = [*names[:at], *(f"...{i}" for i in range(count)), *names[at + 1 :]]
    chex.assert_rank(array, len(names))
    for size, text in zip(np.shape(array), names, strict=True):
        name = text.lstrip(string.digits)
        factor = int(text.removesuffix(name) or 1)
        chex.assert_is_divisible(size, factor)
        count = size // factor
        chex.assert_equal(sizes.setdefault(name, count), count)
    if whole:
        chex.assert_type(array, int)
