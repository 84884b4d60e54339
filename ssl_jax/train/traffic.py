"""How often a compiled program goes through its large arrays, loops multiplied by their trip
counts.

XLA's own cost analysis counts the body of a loop once and a slice of an array as the whole.
"""

import math
import re
from typing import NamedTuple

_HEAD = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{\s*$")
_LINE = re.compile(r"^\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<rest>.*)$")
_CALL = re.compile(r"^(?P<type>\(.*?\)|\S+) (?P<opcode>[\w\-]+)\((?P<rest>.*)$")
_ARRAY = re.compile(r"[a-z]+\d+[a-z\d]*\[(?P<dims>[\d,]*)\](?P<layout>\{[^}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
_CALLED = re.compile(
    r"(?:calls|to_apply|body|(?:true|false)_computation|branch_computations)=(\{[^}]*\}|[^,\s]+)"
)
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_COMMENT = re.compile(r"/\*.*?\*/")

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


class _Instruction(NamedTuple):
    """A line: `%name = type opcode(inside), rest`."""

    name: str
    type: str
    opcode: str
    inside: str
    rest: str
    root: bool

    @property
    def operands(self) -> list[str]:
        return _NAME.findall(self.inside)

    @property
    def called(self) -> list[str]:
        """Computations that it runs, but for the condition of a loop."""
        return [n for group in _CALLED.findall(self.rest) for n in _NAME.findall(group)]

    def arrays(self, size: int = 0) -> list[int]:
        """Elements of each array of its result that is large and not in vector memory."""
        found = []
        for array in _ARRAY.finditer(self.type):
            elements = math.prod(int(n) for n in array["dims"].split(",") if n)
            if elements >= size and "S(1)" not in (array["layout"] or ""):
                found.append(elements)
        return found

    @property
    def elements(self) -> int:
        """Of its result, one array, wherever it is."""
        found = _ARRAY.search(self.type)
        return math.prod(int(n) for n in found["dims"].split(",") if n) if found else 0


_Computation = dict[str, _Instruction]


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
    computations, entry = _parse(text)
    return _count(computations, computations[entry], size)


def _parse(text: str) -> tuple[dict[str, _Computation], str]:
    computations: dict[str, _Computation] = {}
    entry, current = "", ""
    for line in _COMMENT.sub("", text).splitlines():
        if head := _HEAD.match(line):
            current = head["name"]
            computations[current] = {}
            entry = current if head["entry"] else entry
        elif (found := _LINE.match(line)) and (call := _CALL.match(found["rest"])):
            inside, rest = _split(call["rest"])
            computations[current][found["name"]] = _Instruction(
                found["name"], call["type"], call["opcode"], inside, rest, bool(found["root"])
            )
    if not entry:
        raise ValueError("this is no text of a compiled program")
    return computations, entry


def _split(text: str) -> tuple[str, str]:
    """What stands before the closing parenthesis, and after it."""
    depth = 1
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[:i], text[i + 1 :]
    return text, ""


def _count(computations: dict[str, _Computation], body: _Computation, size: int) -> Traffic:
    total = Traffic(0, 0)
    for one in body.values():
        if one.opcode in _FREE or one.opcode.endswith(("-done", "-update")):
            continue
        if one.opcode in _RUNS:
            inside = [_count(computations, computations[name], size) for name in one.called]
            total += max(inside).times(_trips(computations, one, max(inside)))
        else:
            reads = sum(_read(computations, body, one, i, size) for i in range(len(one.operands)))
            total += Traffic(reads / size, _written(computations, body, one, size) / size)
    return total


def _trips(computations: dict[str, _Computation], one: _Instruction, inside: Traffic) -> int:
    """Of a loop as the program states it, or as `i < n` of JAX's loops, which count from 0."""
    if one.opcode != "while" or inside == Traffic(0, 0):
        return 1
    if found := _TRIPS.search(one.rest):
        return int(found[1])
    condition = computations[_CONDITION.search(one.rest)[1]]  # type: ignore[index]
    (root,) = (i for i in condition.values() if i.root)
    last = condition.get(root.operands[-1]) if "direction=LT" in root.rest else None
    if last and last.opcode == "constant":
        return int(last.inside)
    raise ValueError(f"loop {one.name} does not state how often it runs")


def _read(
    computations: dict[str, _Computation],
    body: _Computation,
    one: _Instruction,
    place: int,
    size: int,
) -> int:
    """Elements that an instruction reads of an operand, 0 if that is small."""
    source = body.get(one.operands[place])
    counted = source.arrays(size) if source else []
    if not counted or (one.opcode == "dynamic-update-slice" and place == 0):
        return 0
    if one.opcode in _SLICES:
        return one.elements
    if one.opcode == "fusion":
        fused = computations[one.called[0]]
        (name,) = (
            i.name for i in fused.values() if (i.opcode, i.inside) == ("parameter", f"{place}")
        )
        return _read_inside(computations, fused, name, size)
    return sum(counted)


def _read_inside(
    computations: dict[str, _Computation], fused: _Computation, name: str, size: int
) -> int:
    """Elements that a fusion reads of its parameter, not more than it has."""
    total = 0
    for one in fused.values():
        for place, operand in enumerate(one.operands):
            if operand == name and one.opcode == "bitcast":
                total += _read_inside(computations, fused, one.name, size)
            elif operand == name:
                total += _read(computations, fused, one, place, size)
    return min(total, fused[name].elements)


def _written(
    computations: dict[str, _Computation], body: _Computation, one: _Instruction, size: int
) -> int:
    """Elements of large arrays that an instruction writes."""
    if one.opcode == "fusion":
        fused = computations[one.called[0]]
        (root,) = (i for i in fused.values() if i.root)
        return _written(computations, fused, root, size)
    if one.opcode == "tuple":  # of a fusion
        return sum(_written(computations, body, body[name], size) for name in one.operands)
    if one.opcode == "bitcast":
        return _written(computations, body, body[one.operands[0]], size)
    if one.opcode == "dynamic-update-slice" and one.arrays(size):
        return body[one.operands[1]].elements
    if one.opcode.endswith("-start"):  # (destination, source, ...)
        return 0 if "S(1)" in one.type.split(", ")[0] else sum(one.arrays(size)[:1])
    return sum(one.arrays(size))
