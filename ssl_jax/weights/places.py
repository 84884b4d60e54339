"""Places of our variables in a PyTorch state dictionary, and the conversion in both directions.

Each family of networks has one function from our paths to these places. Reading and writing both
use it, so they cannot disagree.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Layout = Literal["same", "linear", "conv"]
Arrays = Mapping[str, np.ndarray]

TO_OURS = {"linear": (1, 0), "conv": (2, 3, 1, 0)}  # (out, in) to (in, out), OIHW to HWIO
TO_TORCH = {"linear": (1, 0), "conv": (3, 2, 0, 1)}


@dataclass(frozen=True)
class Place:
    """The tensors that a variable is made of.

    Attributes:
      names: one name; with `stacked`, one per entry along the variable's first axis.
      layout: layout of each tensor.
      stacked: stack the tensors along a new first axis.
    """

    names: tuple[str, ...]
    layout: Layout = "same"
    stacked: bool = False


# (our path, shape of the variable) -> its place.
PlaceOf = Callable[[str, tuple[int, ...]], Place]


def take(tensors: Arrays, place: Place) -> np.ndarray:
    """Return the variable at a place, in our layout. Raises KeyError if a tensor is missing."""
    parts = [tensors[name] for name in place.names]
    if place.layout != "same":
        axes = TO_OURS[place.layout]
        if any(part.ndim != len(axes) for part in parts):
            return parts[0]  # of another shape, which the caller reports
        parts = [part.transpose(axes) for part in parts]
    if not place.stacked:
        return parts[0]
    shapes = {part.shape for part in parts}
    return np.stack(parts) if len(shapes) == 1 else parts[0]


def put(array: np.ndarray, place: Place) -> dict[str, np.ndarray]:
    """Return the tensors of a variable, in PyTorch's layout."""
    parts: Sequence[np.ndarray] = list(array) if place.stacked else [array]
    if place.layout != "same":
        parts = [part.transpose(TO_TORCH[place.layout]) for part in parts]
    return dict(zip(place.names, parts, strict=True))


def under(tensors: Arrays, prefix: str) -> dict[str, np.ndarray]:
    """Select the tensors whose names start with `prefix`, and strip it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def layers(tensors: Arrays, prefix: str) -> int:
    """Count the consecutive layers "PREFIX0.", "PREFIX1.", ..."""
    count = 0
    while any(name.startswith(f"{prefix}{count}.") for name in tensors):
        count += 1
    return count
