"""Collectives of a compiled program: who sends how much to whom, and what runs meanwhile."""

import itertools
import math
import re
from dataclasses import dataclass

import numpy as np

from ssl_jax.cost.hlo import KINDS, Computation, Instruction, Program

Groups = tuple[tuple[int, ...], ...]

_WORK = ("fusion", "dot", "convolution", "custom-call", "while", "call", "conditional")


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
      beside: bytes of those during which the device also computes: something runs between the
        start and the end of the collective. The others are waited for.
    """

    kind: str
    groups: Groups
    count: int
    bytes: int
    beside: int = 0

    def __add__(self, other: "Transfer") -> "Transfer":
        """Add a transfer of the same kind among the same groups."""
        count, size = self.count + other.count, self.bytes + other.bytes
        return Transfer(self.kind, self.groups, count, size, self.beside + other.beside)

    def times(self, n: int) -> "Transfer":
        return Transfer(self.kind, self.groups, n * self.count, n * self.bytes, n * self.beside)

    @property
    def sent(self) -> float:
        """Bytes that a device sends, at least, if each has bandwidth to all others: a ring sends
        (n - 1) / n of the array to gather or to scatter it, and twice that to reduce it.
        """
        if self.kind == "collective-permute" or not self.groups:
            return float(self.bytes)
        n = len(self.groups[0])
        return self.bytes * (n - 1) / n * (2 if self.kind == "all-reduce" else 1)


def transfer_of(program: Program, where: Computation, op: Instruction) -> Transfer | None:
    """Read the transfer that an instruction is; None if it is none, or the end of one."""
    kind = op.opcode.removesuffix("-start")
    if kind == "send" and (estimates := op.attribute(r'_xla_megascale_transfer_type="(\w+)"')):
        size = where.operand(op, 0).bytes  # between slices, over the data centre's network
        return Transfer(estimates.lower().replace("_", "-"), (), 1, size)
    if kind not in KINDS:
        return None
    # A collective that runs beside other work is in several fusions; the one that starts it counts.
    beside = op.attribute(r'"async_collective_fusion_config":\{([^}]*)\}')
    if beside and '"flag_start":"-1"' not in beside:  # the keys are in any order
        return None
    sent = sum(where.operand(op, i).bytes for i in range(len(op.operands)))
    whole = sum(s.bytes for s in op.shapes if s.dims)
    if op.opcode in ("all-gather-start", "collective-permute-start"):
        whole -= sent
    if where.name.startswith("all-reduce-scatter"):  # each device keeps its part of the sum
        kind = "reduce-scatter"
    size = max(sent, whole)
    meanwhile = size if computes_meanwhile(program, where, op) else 0
    return Transfer(kind, device_groups(op.attributes), 1, size, meanwhile)


def computes_meanwhile(program: Program, where: Computation, op: Instruction) -> bool:
    """Return whether something is computed between the start `op` of a collective and its end; the
    text lists the instructions of a computation as they run. False if `op` is not a start.
    """
    if not _starts(program, op):
        return False
    names = {op.name}  # the collective, under the names that steps of it pass it on by
    after = itertools.dropwhile(lambda other: other is not op, where.instructions.values())
    for other in itertools.islice(after, 1, None):
        passes_on = not names.isdisjoint(other.operands)
        if passes_on and (other.opcode.endswith("-done") or _marks(program, other, "Done")):
            return False
        if other.opcode in _WORK and not _marks(program, other, "Start"):
            return True
        if passes_on:
            names.add(other.name)
    return False


def _starts(program: Program, op: Instruction) -> bool:
    return op.opcode.endswith("-start") or _marks(program, op, "Start")


def _marks(program: Program, op: Instruction, end: str) -> bool:
    """Return whether a fusion is only the "Start" or the "Done" of a collective."""
    inside = program.computations.get(op.calls or "") if op.opcode == "fusion" else None
    return inside is not None and f"AsyncCollective{end}" in inside.root.attributes


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
