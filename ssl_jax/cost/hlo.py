"""Parser for the text of a compiled program, `compiled.as_text()`: computations of instructions.

jaxlib parses the text too, but its Python view of an instruction has neither its shape nor the
computations it calls. We found no library that counts a compiled program.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all")

_HEADER = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = ")
_SHAPE = re.compile(r"\b([a-z]+\d*\w*)\[([\d,<=]*)\](\{[^}]*\})?")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_OPERAND = re.compile(r"%([\w.\-]+)")
_SPACE = re.compile(r"S\((\d+)\)")


class Shape(NamedTuple):
    """One array: its element type, its dimensions, and the memory it lies in (0 is the large one:
    HBM on an accelerator).
    """

    dtype: str
    dims: tuple[int, ...]
    memory: int = 0

    @property
    def elements(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Bytes of the elements, without the padding of a tiled layout."""
        if self.dtype in ("token", "opaque"):
            return 0
        bits = re.search(r"\d+", self.dtype)
        return self.elements * int(bits[0] if bits else 8) // 8  # a pred takes one byte


class Instruction(NamedTuple):
    """One instruction, a line of the text.

    Attributes:
      shapes: shape of the result, or those of all its parts if it is a tuple.
      arguments: text between the parentheses; the value of a constant.
      operands: names of the instructions it reads.
      attributes: text after the parentheses.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    arguments: str
    operands: tuple[str, ...]
    attributes: str
    root: bool

    def attribute(self, pattern: str) -> str | None:
        """Return the match of the only group of the regex `pattern` in the attributes."""
        match = re.search(pattern, self.attributes)
        return match[1] if match else None

    @property
    def calls(self) -> str | None:
        """Name of the computation that a fusion, a call or an asynchronous start runs."""
        return self.attribute(r"\b(?:calls|to_apply)=%?([\w.\-]+)")


class Computation(NamedTuple):
    name: str
    instructions: Mapping[str, Instruction]

    @property
    def root(self) -> Instruction:
        return next(i for i in self.instructions.values() if i.root)

    def operand(self, instruction: Instruction, number: int) -> Shape:
        """Return the shape of an operand, or of its first part."""
        return self.instructions[instruction.operands[number]].shapes[0]

    def parameter(self, number: int) -> Instruction | None:
        """Return the parameter with this number."""
        for instruction in self.instructions.values():
            if instruction.opcode == "parameter" and instruction.arguments.strip() == str(number):
                return instruction
        return None


class Program(NamedTuple):
    computations: Mapping[str, Computation]
    entry: Computation


def parse(text: str) -> Program:
    """Parse the text of a program."""
    computations: dict[str, Computation] = {}
    entry = ""
    current: dict[str, Instruction] = {}
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = {}
            computations[header["name"]] = Computation(header["name"], current)
            entry = header["name"] if header["entry"] else entry
        elif match := _INSTRUCTION.match(line):
            instruction = _instruction(match["name"], bool(match["root"]), line[match.end() :])
            current[instruction.name] = instruction
    return Program(computations, computations[entry])


def _instruction(name: str, root: bool, rest: str) -> Instruction:
    end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
    opcode = _OPCODE.match(rest, end)
    assert opcode, rest
    close = _closing(rest, opcode.end() - 1)
    arguments = rest[opcode.end() : close - 1]
    return Instruction(
        name,
        opcode[1],
        _shapes(rest[:end]),
        arguments,
        tuple(_OPERAND.findall(arguments)),
        rest[close:],
        root,
    )


def _closing(text: str, start: int) -> int:
    """Return the position after the parenthesis that closes the one at `start`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.end()
    raise ValueError(f"unbalanced: {text[start : start + 80]}")


def _shapes(text: str) -> tuple[Shape, ...]:
    return tuple(
        Shape(
            dtype,
            tuple(int(n.lstrip("<=")) for n in dims.split(",") if n),
            int(space[1]) if (space := _SPACE.search(layout)) else 0,
        )
        for dtype, dims, layout in _SHAPE.findall(text)
    )


class Collective(NamedTuple):
    """A collective instruction: its kind, and the shapes of its results as (dtype, shape)."""

    kind: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def elements(self) -> int:
        return sum(math.prod(shape) for _, shape in self.shapes)


def collectives(text: str) -> list[Collective]:
    """List the collectives in the text of a compiled program, in order.

    Instructions are counted, not executions: one in a loop body counts once. `cost.program` counts
    executions. An asynchronous one is counted at its start.
    """
    return [
        Collective(
            instruction.opcode.removesuffix("-start"),
            tuple((s.dtype, s.dims) for s in instruction.shapes),
        )
        for instruction in _lines(text)
        if instruction.opcode.removesuffix("-start") in KINDS
    ]


def _lines(text: str) -> Iterator[Instruction]:
    for line in text.splitlines():
        if match := _INSTRUCTION.match(line):
            yield _instruction(match["name"], bool(match["root"]), line[match.end() :])
