"""Ranges of numbers and patterns of texts, declared with the type of a field:
`temperature: Positive = 0.1`.

`core.config` refuses other values. No number in a config may be NaN or infinite.
"""

import itertools
import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, inclusive unless `open_low` or `open_high` is set."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return math.isfinite(value) and above and below

    def __str__(self) -> str:
        if math.isfinite(self.low) and math.isfinite(self.high):
            left, right = "(["[not self.open_low], ")]"[not self.open_high]
            high = f"{self.high:g}" if self.high < 1e6 else str(self.high)
            return f"in {left}{self.low:g}, {high}{right}"
        if math.isfinite(self.low):
            return f"above {self.low:g}" if self.open_low else f"of at least {self.low:g}"
        return "that is finite"


@dataclass(frozen=True)
class Matching:
    """The texts that match a regular expression; `meaning` describes them in messages."""

    regex: str
    meaning: str

    def __contains__(self, text: Any) -> bool:
        return re.fullmatch(self.regex, text) is not None

    def __str__(self) -> str:
        return self.meaning


@dataclass(frozen=True)
class Rising:
    """The tuples of numbers in which none is smaller than the one before it."""

    def __contains__(self, values: Any) -> bool:
        return all(low <= high for low, high in itertools.pairwise(values))

    def __str__(self) -> str:
        return "a rising range"


@dataclass(frozen=True)
class Inside:
    """The range of one field of a nested dataclass: that of the type `hint`."""

    field: str
    hint: Any


Integer = Annotated[int, Range()]
Whole = Annotated[int, Range(0)]
Count = Annotated[int, Range(1)]
Several = Annotated[int, Range(2)]
OrAll = Annotated[int, Range(-1)]  # -1 means all
Seed = Annotated[int, Range(0, 2**32 - 1)]

Finite = Annotated[float, Range()]
NonNegative = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, open_low=True)]
Probability = Annotated[float, Range(0, 1)]
BelowOne = Annotated[float, Range(0, 1, open_high=True)]
Share = Annotated[float, Range(0, 1, open_low=True)]
Part = Annotated[float, Range(0, 1, open_low=True, open_high=True)]

Interval = Annotated[tuple[T, T], Rising()]  # (low, high): `area: Interval[Share]`
