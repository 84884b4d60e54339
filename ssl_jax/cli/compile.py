"""`ssl-jax compile`: memory and time of a training step on a TPU pod, without pod or data.

ssl-jax compile --config=simclr:imagenet --topology=v5e:8x8
ssl-jax compile --config=mae:imagenet --topology=v5p:4x4x4 --slices=2 --config.mesh.fsdp=8
ssl-jax compile --config=simclr:imagenet --topology=v6e:8x8 --find_batch
ssl-jax compile --config=dino:imagenet --topology=v5e:8x8 --remat=auto

The exit code is 0 if the step fits into the chips' memory and 1 if it does not. Several slices lie
along mesh.replica. The bound is a lower limit that no schedule can beat, not a prediction.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from ssl_jax.core.config import flag
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count
from ssl_jax.cost.chips import GIB
from ssl_jax.run import flags as command_line
from ssl_jax.run.compile import Report, compare_remat, compile_step, find_batch
from ssl_jax.run.configs import configured
from ssl_jax.run.console import Terminal, styled, terminal


@dataclass(frozen=True, kw_only=True)
class Flags(command_line.ConfigFlags):
    config: str = flag("METHOD:RECIPE (simclr:imagenet) or PATH.py:RECIPE")
    topology: str = flag("the slice: KIND:SHAPE, v5e:8x8 or v4:4x4x4")
    slices: Count = flag("number of slices", 1)
    data: str = flag(
        "data whose sizes are used; by default the config's data, else ImageNet's sizes", ""
    )
    find_batch: bool = flag(
        "search the largest batch per chip that fits, among powers of two", False
    )
    remat: Literal["", "auto"] = flag(
        "auto: compare what the backward pass may recompute (backbone.remat)", ""
    )
    hlo: Path | None = flag("file to write the compiled program's text to", None)
    json: bool = flag("print the report as one line of JSON", False)


def main(argv: list[str]) -> int:
    flags = command_line.parse(argv, __doc__, Flags)
    name, topology, slices = flags.config, flags.topology, flags.slices
    if flags.hlo and (flags.find_batch or flags.remat):
        raise UserError("--hlo writes a single program; leave --find_batch and --remat out")
    if flags.find_batch and flags.remat:
        raise UserError("--remat compares programs of one batch; leave --find_batch out")
    config = configured(name, flags.overrides, flags.data)
    if slices > 1 and "replica" not in config.get("mesh", {}):
        config.setdefault("mesh", {})["replica"] = slices
    console = Terminal(stderr=True) if flags.json else terminal()
    if flags.find_batch:
        report = find_batch(config, topology, slices, console)
    elif flags.remat:
        report = compare_remat(config, topology, slices, console)
        name = f"{name} with backbone.remat={report['remat']}"
    else:
        with console.status(styled(f"compiling {name} for {slices} x {topology}: a few minutes")):
            report = compile_step(config, topology, slices, str(flags.hlo or ""))
    if flags.json:
        print(json.dumps(report))
    else:
        show(console, f"{name} on {slices} x {topology}", report)
    return 0 if report["fits"] else 1


def show(console: Console, title: str, report: Report) -> None:
    """Print the tables."""
    shape = " x ".join(f"{axis} {size}" for axis, size in report["mesh"].items())
    console.print(
        styled(
            (title, "bold"),
            f": {math.prod(report['mesh'].values())} {report['device']} chips, mesh {shape}, batch "
            f"{report['global_batch']:,}; compiled in {report['compile_seconds']:.0f} s",
        )
    )
    console.print(_memory_table(report["memory"]), soft_wrap=False)
    if report["links"]:
        console.print(_links_table(report["links"]), soft_wrap=False)
    if report["options"]:
        options = (f"{name}={value}" for name, value in report["options"].items())
        console.print(f"compiler options, which training sets too: {', '.join(options)}")
    if report["flops"]:
        console.print(
            f"{report['flops'] / 1e12:,.4g} TFLOP per step, {report['flops_per_image'] / 1e9:,.4g} "
            f"GFLOP per image (matrix products and convolutions; all chips)\n"
            f"{report['bytes'] / 1e9:,.4g} GB read and written in HBM per step and chip, "
            f"{report['bytes_per_image'] / 1e6:,.4g} MB per image"
        )
    if report["unknown"]:
        console.print(
            styled(
                ("not fully counted:", "yellow"),
                f" {', '.join(report['unknown'])} (a loop with an unknown number of iterations "
                "counts once, a kernel without a cost estimate has no FLOPs)",
            )
        )
    if report["bound"]:
        console.print(_bound_line(report["bound"], report["links"]))
    verdict = ("fits", "bold green") if report["fits"] else ("does not fit", "bold red")
    console.print(styled(verdict, f" {report['message']}".rstrip()))


def _memory_table(memory: Mapping[str, Any]) -> Table:
    table = Table(title="HBM per chip", title_justify="left")
    table.add_column("part")
    table.add_column("GiB", justify="right")
    names = {
        "parameters": "parameters",
        "optimizer": "optimizer state",
        "extra": "extra (statistics, teacher, queue)",
        "batch": "batch",
        "padding": "padding of these",
        "activations": "activations and gradients",
        "results": "other results",
        "program": "program",
        "peak": "total",
        "capacity": "capacity of the chip",
    }
    for key, name in names.items():
        if memory[key] is not None:
            table.add_row(name, f"{memory[key] / GIB:.3f}", end_section=key == "program")
    return table


def _links_table(links: list[Mapping[str, Any]]) -> Table:
    table = Table(title="Collectives per step", title_justify="left")
    for column in ("kind", "mesh axes"):
        table.add_column(column)
    for column in ("count", "MB per chip", "MB of these beside computation"):
        table.add_column(column, justify="right")
    for link in links:
        sizes = (f"{link[key] / 1e6:,.3f}" for key in ("bytes", "beside"))
        table.add_row(link["kind"], link["axes"], f"{link['count']:,}", *sizes)
    return table


def _bound_line(bound: Mapping[str, float], links: list[Mapping[str, Any]]) -> str:
    parts = {"compute": "FLOPs", "memory": "HBM", "ici": "ICI", "dcn": "network between slices"}
    times = [f"{name} {bound[key] * 1e3:.2f} ms" for key, name in parts.items() if bound[key]]
    each = ", ".join(times)
    line = (
        f"roofline bound {bound['seconds'] * 1e3:.2f} ms per step ({each}), so at most "
        f"{bound['images_per_second']:,.0f} images/s: a bound, not a prediction"
    )
    if not bound["dcn"] and any("slices" in link["axes"] for link in links):
        line += "; it excludes the network between slices, whose speed is not published"
    return line
