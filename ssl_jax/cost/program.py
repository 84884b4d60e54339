"""Costs of a compiled program on one device, read from its text: FLOPs, bytes, collectives.

XLA's own `cost_analysis()` counts the body of a loop once; here it counts as often as it runs, so a
scan over the blocks of a transformer has the FLOPs of all of them. Matrix products, convolutions
and the kernels' own estimates (`pallas.CostEstimate`) are counted, elementwise work is not.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from ssl_jax.cost.hlo import KINDS, Computation, Instruction, Program, Shape, parse

Groups = tuple[tuple[int, ...], ...]

# Instructions that move no data: views, names, and ends of transfers counted at their `-start`.
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
    "optimization-barrier",
    "domain",
    "async-update",
}
_PASSED_ON = {"copy", "bitcast", "convert", "copy-done", "copy-start"}
_FREE_CALLS = {"ConcatBitcast", "AllocateBuffer", "Sharding", "GatherScatterIndicesBitpacked"}
_SLICES = ("slice", "dynamic-slice", "gather")  # they read as much as they return
_VIEWS = ("bitcast", "reshape", "convert", "copy", "transpose")  # inside a fusion


@dataclass(frozen=True)
class Transfer:
    """Collectives of one kind among the same groups of devices.

    Attributes:
      kind: one of `hlo.KINDS`.
      groups: groups of devices that communicate; pairs (source, target) of a permute; empty if all
        slices communicate over the data centre's network.
      count: executions.
      bytes: size of the whole array that is gathered, reduced or sent, per device, over all
        executions.
    """

    kind: str
    groups: Groups
    count: int
    bytes: int

    @property
    def sent(self) -> float:
        """Bytes that a device sends, at least, if each has bandwidth to all others: a ring sends
        (n - 1) / n of the array to gather or to scatter it, and twice that to reduce it.
        """
        if self.kind == "collective-permute" or not self.groups:
            return float(self.bytes)
        n = len(self.groups[0])
        return self.bytes * (n - 1) / n * (2 if self.kind == "all-reduce" else 1)


@dataclass(frozen=True)
class Costs:
    """Costs of one run of a program on one device.

    Attributes:
      flops: two per multiply-add.
      bytes: bytes read from and written to the large memory (HBM); on-chip memory is free.
      traffic: the collectives.
      unknown: names of loops without a readable trip count, which count once, and of kernels
        without an estimate of their FLOPs.
    """

    flops: int = 0
    bytes: int = 0
    traffic: tuple[Transfer, ...] = ()
    unknown: tuple[str, ...] = ()

    def __add__(self, other: "Costs") -> "Costs":
        merged: dict[tuple[str, Groups], Transfer] = {}
        for item in (*self.traffic, *other.traffic):
            before = merged.get((item.kind, item.groups), replace(item, count=0, bytes=0))
            total = replace(item, count=before.count + item.count, bytes=before.bytes + item.bytes)
            merged[item.kind, item.groups] = total
        return Costs(
            self.flops + other.flops,
            self.bytes + other.bytes,
            tuple(merged.values()),
            tuple(dict.fromkeys(self.unknown + other.unknown)),
        )

    def times(self, n: int) -> "Costs":
        traffic = tuple(replace(t, count=n * t.count, bytes=n * t.bytes) for t in self.traffic)
        return Costs(n * self.flops, n * self.bytes, traffic, self.unknown)


def count(text: str) -> Costs:
    """Count the costs of a compiled program, given its text (`compiled.as_text()`)."""
    program = parse(text)

    @cache
    def of(name: str, fused: bool) -> Costs:
        """Count one computation. In a fusion no instruction moves data: the whole fusion does."""
        total = Costs()
        where = program.computations[name]
        for op in where.instructions.values():
            total += _cost(program, where, op, fused, of)
        return total

    return of(program.entry.name, False)


def _cost(
    program: Program, where: Computation, op: Instruction, fused: bool, of: Callable[..., Costs]
) -> Costs:
    kind = op.opcode
    if kind == "while":
        turns = trip_count(program, where, op)
        parts = (op.attribute(rf"{part}=%?([\w.\-]+)") for part in ("body", "condition"))
        total = sum((of(part, fused) for part in parts), Costs())
        return total.times(turns) if turns is not None else total + Costs(unknown=(op.name,))
    if kind == "conditional":  # the dearest branch
        return max((of(b, fused) for b in _branches(op)), key=lambda c: (c.flops, c.bytes))
    if kind in ("call", "async-start"):
        return of(op.calls, fused)
    nbytes = 0 if fused else _bytes_moved(program, where, op)
    if kind == "fusion":
        return of(op.calls, True) + Costs(bytes=nbytes)
    if kind == "dot":
        return Costs(_dot_flops(where, op), nbytes)
    if kind == "convolution":
        return Costs(_convolution_flops(where, op), nbytes)
    if kind == "custom-call":
        return _custom(where, op, nbytes)
    if traffic := _traffic(where, op):
        return Costs(0, nbytes, (traffic,))
    return Costs(0, nbytes)


# FLOPs


def _dot_flops(where: Computation, op: Instruction) -> int:
    left = _operand(where, op, 0)
    contracted = op.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or ""
    depth = math.prod(left.dims[int(d)] for d in contracted.split(",") if d)
    return 2 * op.shapes[0].elements * depth


def _convolution_flops(where: Computation, op: Instruction) -> int:
    """Count by the usual closed form: kernel positions times outputs, including padding but not the
    holes of a dilated input.

    The TPU compiler writes matrix products and outer products as convolutions too, with batch
    dimensions as dilated windows: a multiply-add belongs to one input and one kernel position, and
    to one input and one output position, which bounds the pairs there.
    """
    labels = op.attribute(r"dim_labels=(\S+?)(?:,|$)") or ""
    left, right, out = re.split(r"_|->", labels)
    image, kernel, result = _operand(where, op, 0), _operand(where, op, 1), op.shapes[0]
    window = dict(re.findall(r"(\w+)=([\w\-]+)", op.attribute(r"window=\{([^}]*)\}") or ""))
    pairs = 1
    for i, digit in enumerate(sorted(d for d in out if d.isdigit())):
        inputs, outputs = image.dims[left.index(digit)], result.dims[out.index(digit)]
        taps = kernel.dims[right.index(digit)]
        holes = int(window["lhs_dilate"].split("x")[i]) if "lhs_dilate" in window else 1
        pairs *= min(outputs * taps // holes, inputs * taps, inputs * outputs)
    outer = result.dims[out.index("b")] * result.dims[out.index("f")]
    # The kernel's input features are those of one feature group. With batch groups (the gradient of
    # a grouped convolution) each output feature sees one group of the batch.
    depth = kernel.dims[right.index("i")]
    return 2 * pairs * outer * depth


def _custom(where: Computation, op: Instruction, nbytes: int) -> Costs:
    """Count a kernel as it declares, without its arguments and results in on-chip memory, which the
    estimate contains.
    """
    target = op.attribute(r'custom_call_target="([^"]*)"')
    if target in _FREE_CALLS:
        return Costs()
    estimate = op.attribute(r'"cost_estimate":\{([^}]*)\}')
    if estimate:
        estimates = dict(re.findall(r'"(\w+)":"?(\d+)', estimate))
        operands = (where.instructions[n] for n in op.operands if n in where.instructions)
        arrays = [s for i in (op, *operands) for s in i.shapes]
        near = sum(s.bytes for s in arrays if s.memory)
        declared = int(estimates.get("bytes_accessed", nbytes + near))
        return Costs(int(estimates.get("flops", 0)), max(declared - near, 0))
    unknown = (op.name,) if target == "tpu_custom_call" else ()
    return Costs(0, nbytes, unknown=unknown)


# Bytes


def _bytes_moved(program: Program, where: Computation, op: Instruction) -> int:
    """Count the bytes of HBM that an instruction outside of fusions reads and writes."""
    kind = op.opcode
    if kind in _FREE or kind.endswith("-done"):
        return 0
    results = [s for s in op.shapes if not s.memory]
    operands = [s for n in op.operands if n in where.instructions for s in _arrays_read(where, n)]
    if kind in ("copy-start", "slice-start"):  # (what is copied, the copy, ...), in either order
        arrays = [s for s in op.shapes if s.memory in (0, 1)]
        size = min(s.bytes for s in op.shapes[:2])
        return size * sum(not s.memory for s in arrays[:2])
    if kind in ("slice", "dynamic-slice", "gather"):
        source = _operand(where, op, 0)
        read = 0 if source.memory else sum(s.bytes for s in op.shapes)
        return read + sum(s.bytes for s in results)
    if kind == "dynamic-update-slice":
        return 2 * _operand(where, op, 1).bytes if results else 0
    if kind == "scatter":
        return 3 * _operand(where, op, len(op.operands) - 1).bytes if results else 0
    if kind.endswith("-start") and kind != "all-reduce-start":  # holds its operands again
        whole = sum(s.bytes for s in results)
        return max(whole, sum(s.bytes for s in operands))
    if kind == "fusion":
        return _fusion_bytes(program, where, op)
    if kind == "send":
        return sum(s.bytes for s in operands)
    return sum(s.bytes for s in operands) + sum(s.bytes for s in results)


def _arrays_read(where: Computation, name: str) -> Iterator[Shape]:
    """Yield the arrays of an operand that lie in HBM; tuples are passed on, not read."""
    op = where.instructions[name]
    if op.opcode != "constant" and len(op.shapes) == 1:
        yield from (s for s in op.shapes if not s.memory)


def _fusion_bytes(program: Program, where: Computation, op: Instruction) -> int:
    """Count the bytes that a fusion moves: it reads only the slices that it takes of an operand,
    and writes only the update of an array that it updates in place.
    """
    inside = program.computations[op.calls or ""]
    root = inside.root
    if "AsyncCollectiveDone" in root.attributes:
        return 0  # counted where it started
    aliases = _aliases(inside, op)
    nbytes = 0
    for number, name in enumerate(op.operands):
        source = where.instructions.get(name)
        if source is None or source.opcode == "constant" or len(source.shapes) != 1:
            continue
        if not source.shapes[0].memory and number not in aliases.values():
            nbytes += _bytes_read(program, inside, inside.parameter(number), source.shapes[0].bytes)
    parts = [inside.instructions[n] for n in root.operands] if root.opcode == "tuple" else []
    for number, shape in enumerate(op.shapes):
        if not shape.memory and number not in aliases:
            value = parts[number] if parts else root
            nbytes += _bytes_written(program, inside, value, shape)
    return nbytes


def _bytes_read(
    program: Program, inside: Computation, array: Instruction | None, whole: int
) -> int:
    """Count the bytes that a fusion reads of an operand of `whole` bytes, its parameter `array`."""
    if array is None:
        return whole
    total = 0
    for user in inside.instructions.values():
        if array.name not in user.operands:
            continue
        first = user.operands[0] == array.name
        if user.opcode == "dynamic-update-slice" and first:
            continue  # written in place
        if user.opcode in _SLICES and first:
            total += user.shapes[0].bytes
        elif user.opcode in _VIEWS and not user.root:
            total += _bytes_read(program, inside, user, whole)
        elif user.opcode == "fusion":
            nested = program.computations[user.calls or ""]
            places = (i for i, name in enumerate(user.operands) if name == array.name)
            total += sum(_bytes_read(program, nested, nested.parameter(i), whole) for i in places)
        else:
            return whole
    return min(total, whole)


def _aliases(inside: Computation, op: Instruction) -> dict[int, int]:
    """Map result -> operand for arrays that a fusion beside a running collective only passes on."""
    if not any(
        "async_collective_fusion_config" in i.attributes for i in inside.instructions.values()
    ):
        return {}
    if "AsyncCollectiveStart" in inside.root.attributes:
        return {0: -1}  # its operand, which it reads
    text = op.attribute(r"output_to_operand_aliasing=\{(.*?)\}, ") or ""
    return {int(a): int(b) for a, b in re.findall(r"\{(\d+)\}: \((\d+),", text)}


def _bytes_written(program: Program, inside: Computation, root: Instruction, shape: Shape) -> int:
    while root.opcode in _VIEWS:
        root = inside.instructions[root.operands[0]]
    if root.opcode == "fusion" and len(root.shapes) == 1:
        nested = program.computations[root.calls or ""]
        return _bytes_written(program, nested, nested.root, shape)
    if root.opcode == "dynamic-update-slice":
        return inside.instructions[root.operands[1]].shapes[0].bytes
    return shape.bytes


# Loops and branches


def trip_count(program: Program, where: Computation, loop: Instruction) -> int | None:
    """Return how often the body of a `while` runs, from the compiler's annotation or from its
    counter, which JAX raises by one up to a constant. None for any other form of loop.
    """
    annotation = loop.attribute(r'known_trip_count"?:\{"?n"?:"?(\d+)')
    if annotation:
        return int(annotation)
    condition = program.computations[loop.attribute(r"condition=%?([\w.\-]+)") or ""]
    test = condition.root
    start = where.instructions.get(loop.operands[0])
    if test.opcode != "compare" or start is None or start.opcode != "tuple":
        return None

    def value(name: str) -> int | None:
        """Return the value of an operand of the test before the first iteration."""
        op = condition.instructions[name]
        if op.opcode == "get-tuple-element":
            return _constant(where, start.operands[int(op.attribute(r"index=(\d+)") or 0)])
        return _constant(condition, name)

    left, right = (value(name) for name in test.operands)
    direction = test.attribute(r"direction=(\w+)")
    if left is None or right is None or direction not in ("LT", "LE"):
        return None
    return max(right - left + (direction == "LE"), 0)


def _constant(where: Computation, name: str) -> int | None:
    op = where.instructions.get(name)
    while op is not None and op.opcode in _PASSED_ON:
        op = where.instructions.get(op.operands[0])
    if op is None or op.opcode != "constant" or not op.arguments.lstrip("-").isdigit():
        return None
    return int(op.arguments)


def _branches(op: Instruction) -> list[str]:
    text = op.attribute(r"branch_computations=\{([^}]*)\}")
    if text:
        return [name.strip().lstrip("%") for name in text.split(",")]
    return re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", op.attributes)


# Collectives


def _traffic(where: Computation, op: Instruction) -> Transfer | None:
    kind = op.opcode.removesuffix("-start")
    if kind == "send" and (estimates := op.attribute(r'_xla_megascale_transfer_type="(\w+)"')):
        size = _operand(where, op, 0).bytes  # between slices, over the data centre's network
        return Transfer(estimates.lower().replace("_", "-"), (), 1, size)
    if kind not in KINDS:
        return None
    # A collective that runs beside other work is in several fusions; the one that starts it counts.
    beside = op.attribute(r'"async_collective_fusion_config":\{([^}]*)\}')
    if beside and '"flag_start":"-1"' not in beside:  # the keys are in any order
        return None
    sent = sum(_operand(where, op, i).bytes for i in range(len(op.operands)))
    whole = sum(s.bytes for s in op.shapes if s.dims)
    if op.opcode in ("all-gather-start", "collective-permute-start"):
        whole -= sent
    if where.name.startswith("all-reduce-scatter"):  # each device keeps its part of the sum
        kind = "reduce-scatter"
    return Transfer(kind, device_groups(op.attributes), 1, max(sent, whole))


def device_groups(attributes: str) -> Groups:
    """Parse the groups of devices of a collective, as positions in the mesh.

    Raises:
      ValueError: unknown notation.
    """

    def search(pattern: str) -> re.Match[str] | None:
        return re.search(pattern, attributes)

    if match := search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]*\})\}"):
        groups = re.findall(r"\{([\d,]+)\}", match[1])
        return tuple(tuple(int(n) for n in group.split(",")) for group in groups)
    if match := search(r"replica_groups=\[([\d,]+)\]<=(\S+?)(?:, |$)"):
        return _rows(_ids(match[2]).reshape([int(n) for n in match[1].split(",")]))
    order = r"(?:, device_ids=\((\S+)\))?"
    if match := search(rf"replica_groups=mesh\[([^\]]*)\]{order} \{{([^}}]*)\}}"):
        return _named_groups(*match.groups(""))
    raise ValueError(f"device groups: unknown notation: {attributes[:200]}")


def _named_groups(mesh: str, order: str, axes: str) -> Groups:
    """Parse `'a'=4,'b'=8`, the order of the devices if it is not 0, 1, ..., and `'b'`, or
    `'b':(2)4`: the part of size 4 of an axis that comes after a part of size 2.
    """
    sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", mesh)}
    parts: list[tuple[int, bool]] = []  # (size, whether it is among the axes), in the mesh's order
    chosen = {
        name: (int(before or 1), int(size or sizes[name]))
        for name, before, size in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", axes)
    }
    for name, total in sizes.items():
        before, size = chosen.get(name, (total, 1))
        parts += [(before, False), (size, name in chosen), (total // (before * size), False)]
    ids = _ids(order) if order else np.arange(math.prod(sizes.values()))
    inner = [i for i, (_, among) in enumerate(parts) if among]
    outer = [i for i, (_, among) in enumerate(parts) if not among]
    width = math.prod(parts[i][0] for i in inner)
    ids = ids.reshape([size for size, _ in parts])
    return _rows(ids.transpose(outer + inner).reshape(-1, width))


def _ids(text: str) -> np.ndarray:
    """Parse `[2,4]T(1,0)`, which is 0 to 7 as (2, 4), transposed; or a list of device numbers."""
    if not text.startswith("["):
        return np.array([int(n) for n in text.split(",")])
    shape, _, axes = text[1:].rstrip(")").partition("]T(")
    dims = [int(n) for n in shape.rstrip("]").split(",")]
    ids = np.arange(math.prod(dims)).reshape(dims)
    return ids.transpose([int(n) for n in axes.split(",")]) if axes else ids


def _rows(ids: np.ndarray) -> Groups:
    return tuple(tuple(int(n) for n in row) for row in ids)


def _operand(where: Computation, op: Instruction, number: int) -> Shape:
    return where.instructions[op.operands[number]].shapes[0]
