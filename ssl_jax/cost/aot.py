"""Ahead-of-time compilation of the train step for absent devices, and a report of its costs.

Nothing is computed and no data is read: state and batch are shapes with shardings.
"""

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from ssl_jax.core import compiler, sharding
from ssl_jax.core.inputs import Inputs
from ssl_jax.cost import program as costs
from ssl_jax.cost.chips import Chip, chip
from ssl_jax.cost.transfers import Groups, Transfer
from ssl_jax.objectives.base import Objective, Spec
from ssl_jax.training.state import TrainState
from ssl_jax.training.step import make_train_step

DCN = "between slices"


@dataclass(frozen=True)
class MemoryUse:
    """HBM of one chip in bytes, by part; None if the compiler failed before it could tell.

    Attributes:
      parameters, optimizer, extra, batch: arguments of the step.
      padding: padding of the arguments in the chip's layout.
      activations: temporaries while the step runs, gradients included.
      results: results that do not reuse the memory of an argument.
      program: code of the program.
      peak: sum of all parts.
      capacity: memory of the chip.
    """

    parameters: int
    optimizer: int
    extra: int
    batch: int
    capacity: int
    padding: int | None = None
    activations: int | None = None
    results: int | None = None
    program: int | None = None
    peak: int | None = None


@dataclass(frozen=True)
class Link:
    """Collectives of one kind over the same mesh axes.

    Attributes:
      kind: one of `hlo.KINDS`.
      axes: mesh axes, joined by a comma, or `DCN`.
      count: executions per step.
      bytes: size of the arrays that are gathered, reduced or sent, per chip and step.
      sent: bytes of these that a chip sends, at least.
      beside: bytes of `bytes` that move while the chip computes; see `transfers.Transfer`.
    """

    kind: str
    axes: str
    count: int
    bytes: int
    sent: int
    beside: int = 0


@dataclass(frozen=True)
class TimeBound:
    """Lower bound of the seconds per step, by limiting resource; 0 if unknown.

    A bound, not a prediction: it assumes every resource at its peak rate, all at once.
    """

    compute: float
    memory: float
    ici: float
    dcn: float
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class Report:
    """Costs of the compiled step. `bytes` and `links` are per chip, FLOPs are over all chips.

    An image is an example of the global batch, with all of its views. The seconds are those of
    tracing and compiling: wall time, and CPU time of all threads. `options` are the compiler's
    (`core.compiler`).
    """

    device: str
    mesh: Mapping[str, int]
    global_batch: int
    compile_seconds: float
    compile_cpu_seconds: float
    fits: bool
    memory: MemoryUse
    message: str = ""
    flops: int = 0
    flops_per_image: float = 0.0
    bytes: int = 0
    bytes_per_image: float = 0.0
    links: tuple[Link, ...] = ()
    unknown: tuple[str, ...] = ()
    bound: TimeBound | None = field(default=None)
    options: Mapping[str, str] = field(default_factory=dict)


def abstract_batch(inputs: Inputs, spec: Spec, mesh: Mesh) -> dict[str, Any]:
    """Return the batches of `inputs` (`Inputs.shapes`) as shapes split by rows over `mesh`."""
    rows = sharding.batch_sharding(mesh)
    return jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=rows),
        inputs.shapes(spec.global_batch, spec.channels),
    )


def compile_step(
    objective: Objective,
    tx: optax.GradientTransformationExtraArgs,
    schedule: Callable[[jax.Array], jax.Array],
    mesh: Mesh,
    state: TrainState,
    placed: TrainState,
) -> tuple[Report, str]:
    """Compile the step of a run for the devices of `mesh`, which need not exist.

    Args:
      objective, tx, schedule: those of the run.
      mesh: mesh over real devices or those of a topology.
      state, placed: the abstract state and its shardings (`training.state`).

    Returns:
      The report and the text of the program. If the compiler runs out of memory, the report says so
      and the text is empty.
    """
    step = prepare(objective, tx, schedule, mesh, state, placed)
    start, busy = time.perf_counter(), time.process_time()
    try:
        compiled = step.lower().compile()
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" not in str(e):
            raise
        facts = step.facts | _elapsed(start, busy)
        return Report(**facts, fits=False, memory=MemoryUse(**step.memory), message=why(e)), ""
    facts = step.facts | _elapsed(start, busy)
    analysis = compiled.memory_analysis()
    sizes = AssignedBytes(
        arguments=analysis.argument_size_in_bytes,
        temporary=analysis.temp_size_in_bytes,
        results=analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        program=analysis.generated_code_size_in_bytes,
    )
    text = compiled.as_text()
    return summarize(facts, step.memory, sizes, text), text


@dataclass(frozen=True)
class Prepared:
    """A train step before compilation: the report's fields and parts of the memory that are known
    then, and a function that traces it for the devices.
    """

    facts: dict[str, Any]
    memory: dict[str, int]
    lower: Callable[[], Any]  # a `jax.stages.Lowered`


@dataclass(frozen=True)
class AssignedBytes:
    """Bytes that the compiler assigns on one chip; `program` is None before its code is made."""

    arguments: int
    temporary: int
    results: int
    program: int | None


def prepare(
    objective: Objective,
    tx: optax.GradientTransformationExtraArgs,
    schedule: Callable[[jax.Array], jax.Array],
    mesh: Mesh,
    state: TrainState,
    placed: TrainState,
) -> Prepared:
    """Prepare `compile_step`, which has the same arguments."""
    batch = abstract_batch(objective.inputs(), objective.spec, mesh)
    device = mesh.devices.flat[0].device_kind
    target_chip = chip(device)
    facts = {
        "device": device,
        "mesh": dict(mesh.shape),
        "global_batch": objective.spec.global_batch,
        "options": compiler.options(mesh),
    }
    memory = {
        "parameters": local_bytes(state.params, placed.params),
        "optimizer": local_bytes(state.opt_state, placed.opt_state),
        "extra": local_bytes(state.extra, placed.extra),
        "batch": local_bytes(batch, jax.tree.map(lambda x: x.sharding, batch)),
        "capacity": target_chip.hbm if target_chip else 0,
    }
    step: Any = make_train_step(objective, tx, schedule, mesh, placed)

    def lower() -> Any:
        with jax.set_mesh(mesh):
            return step.lower(state, batch)

    return Prepared(facts, memory, lower)


def summarize(
    facts: dict[str, Any], memory: dict[str, int], sizes: AssignedBytes, text: str
) -> Report:
    """Report on a compiled step.

    Args:
      facts, memory: those of `Prepared`, and the seconds of the compilation.
      sizes: what the compiler assigned.
      text: text of the optimized program.
    """
    argument_bytes = sum(memory[name] for name in ("parameters", "optimizer", "extra", "batch"))
    peak = sizes.arguments + sizes.temporary + sizes.results + (sizes.program or 0)
    target_chip = chip(facts["device"])
    costs_per_chip = costs.count(text)
    links = _links(costs_per_chip.traffic, facts["mesh"])
    chips, images = math.prod(facts["mesh"].values()), facts["global_batch"]
    return Report(
        **facts,
        fits=not target_chip or not target_chip.hbm or peak <= target_chip.hbm,
        memory=MemoryUse(
            **memory,
            padding=max(sizes.arguments - argument_bytes, 0),
            activations=sizes.temporary,
            results=sizes.results,
            program=sizes.program,
            peak=peak,
        ),
        flops=costs_per_chip.flops * chips,
        flops_per_image=costs_per_chip.flops * chips / images,
        bytes=costs_per_chip.bytes,
        bytes_per_image=costs_per_chip.bytes * chips / images,
        links=links,
        unknown=costs_per_chip.unknown,
        bound=bound(target_chip, costs_per_chip, links, images) if target_chip else None,
    )


def _elapsed(start: float, busy: float) -> dict[str, float]:
    return {
        "compile_seconds": time.perf_counter() - start,
        "compile_cpu_seconds": time.process_time() - busy,
    }


def local_bytes(arrays: Any, placed: Any) -> int:
    """Return the bytes of `arrays` (shapes) that one device holds under the shardings `placed`."""
    sizes = jax.tree.map(
        lambda x, where: int(np.prod(where.shard_shape(x.shape))) * x.dtype.itemsize, arrays, placed
    )
    return sum(jax.tree.leaves(sizes))


def bound(
    target_chip: Chip, costs_per_chip: costs.Costs, links: tuple[Link, ...], images: int
) -> TimeBound:
    """Return the roofline bound of a chip for one step of `images`."""

    def seconds(amount: float, rate: float) -> float:
        return amount / rate if rate else 0.0

    inside = sum(link.sent for link in links if link.axes != DCN)
    outside = sum(link.sent for link in links if link.axes == DCN)
    parts = (
        seconds(costs_per_chip.flops, target_chip.flops),
        seconds(costs_per_chip.bytes, target_chip.bandwidth),
        seconds(inside, target_chip.ici),
        seconds(outside, target_chip.dcn),
    )
    longest = max(parts)
    return TimeBound(*parts, longest, images / longest if longest else 0.0)


def axes_of(groups: Groups, mesh: Mapping[str, int]) -> str:
    """Name the axes of a mesh along which the members of a group differ."""
    names, sizes = list(mesh), list(mesh.values())
    places = np.stack(np.unravel_index(np.array(groups), sizes), -1)  # (groups, members, axes)
    differ = (places != places[:, :1]).any((0, 1))
    return ", ".join(name for name, transfer in zip(names, differ, strict=True) if transfer)


def _links(traffic: tuple[Transfer, ...], mesh: Mapping[str, int]) -> tuple[Link, ...]:
    merged: dict[tuple[str, str], list[float]] = {}
    for transfer in traffic:
        axes = axes_of(transfer.groups, mesh) if transfer.groups else DCN
        total = merged.setdefault((transfer.kind, axes), [0, 0, 0, 0])
        parts = (transfer.count, transfer.bytes, transfer.sent, transfer.beside)
        for i, value in enumerate(parts):
            total[i] += value
    links = (Link(kind, axes, *map(int, total)) for (kind, axes), total in merged.items())
    return tuple(sorted(links, key=lambda link: -link.bytes))


def why(error: Exception) -> str:
    """Extract the compiler's message about memory, on one line."""
    text = " ".join(str(error).split())
    pattern = r"total memory required .*? exceeds .*?\([\d.]+\w\)|Used [\d.]+\w of [\d.]+\w hbm"
    analysis = re.search(pattern, text)
    return analysis[0] if analysis else text[:300]
