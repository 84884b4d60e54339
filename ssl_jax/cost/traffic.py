"""Reads and writes of the large arrays of a compiled program, loops multiplied by their trip count.

XLA's own cost analysis counts the body of a loop once and a slice of an array as the whole array.
"""

import re
from typing import NamedTuple

from ssl_jax.cost.hlo import Computation, Instruction, Program, parse

_NAME = re.compile(r"%([\w.\-]+)")
_TRIPS = r'known_trip_count":\{"n":"(\d+)"'
_CALLED = re.compile(
    r"(?:calls|to_apply|body|(?:true|false)_computation|branch_computations)=(\{[^}]*\}|[^,\s]+)"
)

# Instructions that only name arrays or arrange those that others read and write.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "optimization-barrier",
    "after-all", "partition-id", "replica-id",
}  # fmt: skip
_RUNS = {"while", "conditional", "call", "async-start"}
_SLICES = {"dynamic-slice", "slice"}


class Traffic(NamedTuple):
    """Reads and writes of arrays of at least `size` elements, as multiples of `size`."""

    reads: float
    writes: float

    def __add__(self, other: "Traffic") -> "Traffic":  # type: ignore[override]
        return Traffic(self.reads + other.reads, self.writes + other.writes)

    def times(self, n: float) -> "Traffic":
        return Traffic(n * self.reads, n * self.writes)


def traffic(text: str, size: int) -> Traffic:
    """Count how often `compiled.as_text()` reads and writes arrays of `size` elements or more.

    Reading or writing a slice counts as the slice. Arrays in a TPU's vector memory, S(1), do not
    count, nor do smaller arrays: a block that is cut out of a large one and used twice was read
    once. Whether such blocks stay in the cache is up to their author.

    Args:
      text: text of one device's program.
      size: elements of the smallest array that counts.

    Raises:
      ValueError: the program does not state the trip count of a loop.
    """
    program = parse(text)
    return _count(program, program.entry, size)


def _arrays(instruction: Instruction, size: int) -> list[int]:
    """List the sizes of the large arrays of a result that are not in vector memory."""
    return [s.elements for s in instruction.shapes if s.elements >= size and not s.memory]


def _callees(program: Program, instruction: Instruction) -> list[Computation]:
    """List the computations that an instruction runs, except the condition of a loop."""
    groups = _CALLED.findall(instruction.attributes)
    return [program.computations[name] for group in groups for name in _NAME.findall(group)]


def _count(program: Program, body: Computation, size: int) -> Traffic:
    total = Traffic(0, 0)
    for instruction in body.instructions.values():
        if instruction.opcode in _FREE or instruction.opcode.endswith(("-done", "-update")):
            continue
        if instruction.opcode in _RUNS:
            inside = [_count(program, callee, size) for callee in _callees(program, instruction)]
            total += max(inside).times(_trips(program, instruction, max(inside)))
        else:
            reads = sum(
                _elements_read(program, body, instruction, i, size)
                for i in range(len(instruction.operands))
            )
            total += Traffic(
                reads / size, _elements_written(program, body, instruction, size) / size
            )
    return total


def _trips(program: Program, instruction: Instruction, inside: Traffic) -> int:
    """Return the trip count of a loop: as stated, or from `i < n` of JAX's loops from 0."""
    if instruction.opcode != "while" or inside == Traffic(0, 0):
        return 1
    if trips := instruction.attribute(_TRIPS):
        return int(trips)
    condition = program.computations[instruction.attribute(r"condition=%?([\w.\-]+)") or ""]
    root = condition.root
    less = root.attribute(r"direction=(\w+)") == "LT"
    last = condition.instructions.get(root.operands[-1]) if less else None
    if last and last.opcode == "constant":
        return int(last.arguments)
    raise ValueError(f"loop {instruction.name} does not state how often it runs")


def _elements_read(
    program: Program, body: Computation, instruction: Instruction, place: int, size: int
) -> int:
    """Count the elements that an instruction reads of an operand, 0 if the operand is small."""
    source = body.instructions.get(instruction.operands[place])
    arrays = _arrays(source, size) if source else []
    if not arrays or (instruction.opcode == "dynamic-update-slice" and place == 0):
        return 0
    if instruction.opcode in _SLICES:
        return instruction.shapes[0].elements
    if instruction.opcode == "fusion":
        (fused,) = _callees(program, instruction)
        parameter = fused.parameter(place)
        assert parameter, instruction.name
        return _elements_read_inside(program, fused, parameter.name, size)
    return sum(arrays)


def _elements_read_inside(program: Program, fused: Computation, name: str, size: int) -> int:
    """Count the elements that a fusion reads of its parameter, at most all of them."""
    total = 0
    for instruction in fused.instructions.values():
        for place, operand in enumerate(instruction.operands):
            if operand == name and instruction.opcode == "bitcast":
                total += _elements_read_inside(program, fused, instruction.name, size)
            elif operand == name:
                total += _elements_read(program, fused, instruction, place, size)
    return min(total, fused.instructions[name].shapes[0].elements)


def _elements_written(
    program: Program, body: Computation, instruction: Instruction, size: int
) -> int:
    """Count the elements of large arrays that an instruction writes."""
    at = body.instructions
    if instruction.opcode == "fusion":
        (fused,) = _callees(program, instruction)
        return _elements_written(program, fused, fused.root, size)
    if instruction.opcode == "tuple":  # of a fusion
        return sum(
            _elements_written(program, body, at[name], size) for name in instruction.operands
        )
    if instruction.opcode == "bitcast":
        return _elements_written(program, body, at[instruction.operands[0]], size)
    if instruction.opcode == "dynamic-update-slice" and _arrays(instruction, size):
        return at[instruction.operands[1]].shapes[0].elements
    if instruction.opcode.endswith("-start"):  # (destination, source, ...)
        return 0 if instruction.shapes[0].memory else sum(_arrays(instruction, size)[:1])
    return sum(_arrays(instruction, size))
