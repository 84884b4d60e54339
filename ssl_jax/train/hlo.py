"""What a compiled step sends between devices, read from its text."""

import math
import re
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all")

# The type of a combined collective is a tuple, with spaces in it; an asynchronous one is counted at
# its start.
_OP = re.compile(rf"= (?P<type>\(.*?\)|\S+) (?P<kind>{'|'.join(KINDS)})(?:-start)?\(")
_SHAPE = re.compile(r"([a-z]+\d+)\[([\d,]*)\]")


class Collective(NamedTuple):
    """One instruction: its kind, and the shapes of its results as (dtype, shape)."""

    kind: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def elements(self) -> int:
        return sum(math.prod(shape) for _, shape in self.shapes)


def collectives(text: str) -> list[Collective]:
    """The collectives in the text of a compiled program (`compiled.as_text()`), in order.

    Instructions are counted, not executions: one in a loop body counts once.
    """
    found = []
    for match in _OP.finditer(text):
        shapes = tuple(
            (dtype, tuple(int(n) for n in dims.split(",") if n))
            for dtype, dims in _SHAPE.findall(match["type"])
        )
        found.append(Collective(match["kind"], shapes))
    return found
