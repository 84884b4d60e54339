"""How often a compiled program goes through its large arrays, loops multiplied by their trip
counts.

XLA's own cost analysis counts the body of a loop once and a slice of an array as the whole.
"""

import re
from typing import NamedTuple

from ssl_jax.cost.hlo import Computation, Instruction, Program, parse

_NAME = re.compile(r"%([\w.\-]+)")
_TRIPS = r'known_trip_count":\{"n":"(\d+)"'
_CALLED = re.compile(
    r"(?:calls|to_apply|body|(?:true|false)_computation|branch_computations)=(\{[^}]*\}|[^,\s]+)"
)

# They name arrays, or arrange what others read and write.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "optimization-barrier",
    "after-all", "partition-id", "replica-id",
}  # fmt: skip
_RUNS = {"while", "conditional", "call", "async-start"}
_SLICES = {"dynamic-slice", "slice"}


class Traffic(NamedTuple):
    """Readings and writings of arrays of at least `size` elements, as multiples of `size`."""

    reads: float
    writes: float

    def __add__(self, other: "Traffic") -> "Traffic":  # type: ignore[override]
        return Traffic(self.reads + other.reads, self.writes + other.writes)

    def times(self, n: float) -> "Traffic":
        return Traffic(n * self.reads, n * self.writes)


def traffic(text: str, size: int) -> Traffic:
    """Counts how often `compiled.as_text()` reads and writes arrays of `size` elements or more.

    Reading a slice counts as the slice, writing one likewise; an array in a TPU's vector memory,
    S(1), does not count, nor does a smaller array: a block that is cut out of a large one and used
    twice was read once. That such blocks stay in the cache is for their author to see to.

    Args:
      text: of one device's program.
      size: elements of the smallest array that counts.

    Raises:
      ValueError: a loop whose number of trips the program does not state.
    """
    program = parse(text)
    return _count(program, program.entry, size)


def _arrays(instruction: Instruction, size: int) -> list[int]:
    """Elements of each array of its result that is large and not in vector memory."""
    return [s.elements for s in instruction.shapes if s.elements >= size and not s.memory]


def _callees(program: Program, instruction: Instruction) -> list[Computation]:
    """Computations that it runs, but for the condition of a loop."""
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
    """Of a loop as the program states it, or as `i < n` of JAX's loops, which count from 0."""
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
    raise ValueError(f"loop {one.name} does not state how often it runs")


def _elements_read(
    program: Program, body: Computation, instruction: Instruction, place: int, size: int
) -> int:
    """Elements that an instruction reads of an operand, 0 if that is small."""
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
    """Elements that a fusion reads of its parameter, not more than it has."""
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
    """Elements of large arrays that an instruction writes."""
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
