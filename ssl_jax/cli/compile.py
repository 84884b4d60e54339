"""`ssl-jax compile`: what a training step takes on a TPU pod, without the pod or the data.

ssl-jax compile --config=simclr:imagenet --topology=v5e:8x8
ssl-jax compile --config=mae:imagenet --topology=v5p:4x4x4 --slices=2 --config.mesh.fsdp=8
ssl-jax compile --config=simclr:imagenet --topology=v6e:8x8 --find_batch

The exit code is 0 where the step fits into the chips' memory and 1 where it does not. Several
slices lie along mesh.replica. The bound is what no schedule can beat, not a prediction.
"""

import dataclasses
import importlib.util
import json
import math
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from ssl_jax.cli import flags as command_line
from ssl_jax.cli.configs import configured
from ssl_jax.cli.experiment import Experiment, Facts, make_spec
from ssl_jax.cli.table import Terminal, styled, terminal
from ssl_jax.core import trust
from ssl_jax.core.errors import UserError
from ssl_jax.core.plain import Text, literal
from ssl_jax.data.pipeline import DataConfig
from ssl_jax.data.text import BYTES
from ssl_jax.train.chips import GIB

FLAGS = {
    "config": "METHOD:RECIPE (simclr:imagenet) or PATH.py:RECIPE",
    "topology": "the slice: KIND:SHAPE, v5e:8x8 or v4:4x4x4",
    "slices": "how many of them; 1 by default",
    "data": "data to take the sizes from; by default the config's, or else ImageNet's sizes",
    "find_batch": "search the largest batch a chip that fits, of the powers of two",
    "hlo": "file to write the compiled program's text to",
    "json": "print the report as one line of JSON",
    "config.SECTION.KEY": "any key of the config, --config.train.batch_size=8192",
}

# The ILSVRC 2012 training set: what the `imagenet` recipes are for.
IMAGENET = Facts("ImageNet", examples=1_281_167, classes=1000)

Report = dict[str, Any]


def main(argv: list[str]) -> int:
    switches = ("find_batch", "json")
    flags, overrides = command_line.parse(
        argv, __doc__, FLAGS, configurable=True, switches=switches
    )
    name = command_line.require(flags, "config", "name a method and recipe, simclr:imagenet")
    topology = command_line.require(flags, "topology", "name a slice, --topology=v5e:8x8")
    slices = command_line.whole("slices", flags.slices, default=1, least=1)
    if flags.hlo and flags.find_batch:
        raise UserError("--hlo is of one program; leave --find_batch out")
    config = configured(name, overrides, flags.data)
    if slices > 1 and "replica" not in config.get("mesh", {}):
        config.setdefault("mesh", {})["replica"] = slices
    console = Terminal(stderr=True) if flags.json else terminal()
    if flags.find_batch:
        report = find_batch(config, topology, slices, console)
    else:
        with console.status(styled(f"compiling {name} for {slices} x {topology}: a few minutes")):
            report = compile_step(config, topology, slices, flags.hlo)
    if flags.json:
        print(json.dumps(report))
    else:
        show(console, f"{name} on {slices} x {topology}", report)
    return 0 if report["fits"] else 1


def compile_step(
    config: Mapping[str, Any], topology: str, slices: int = 1, hlo: str = ""
) -> Report:
    """`train.aot.Report` as plain values, made in a process of its own. The text of the program is
    written to the file `hlo`, if given.

    Raises:
      UserError: libtpu is not installed, no such topology, or a config that is none.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "libtpu, the TPU compiler, is not installed: pip install -e '.[tpu]' in your clone of "
            "ssl_jax (no TPU needed)"
        )
    asked = {"config": with_spec(config), "topology": topology, "slices": slices, "hlo": hlo}
    asked["trust_code"] = trust.trusted()
    # It compiles only: it asks no metadata server for a TPU and claims none, so that several may
    # run at once.
    env = {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    command, base = trust.python("ssl_jax.cli.compile_worker")
    run = subprocess.run(
        command,
        input=json.dumps(asked),
        env={**base, **env},
        capture_output=True,
        text=True,
    )
    if run.returncode:
        lines = run.stderr.strip().splitlines() or [f"exit code {run.returncode}"]
        raise UserError(f"the compiler failed: {lines[-1][:400]}")
    report = json.loads(run.stdout.splitlines()[-1])
    if "error" in report:
        raise UserError(report["error"])
    return report


def with_spec(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with its `spec`: of its data where it names some, else of ImageNet's sizes."""
    experiment = Experiment.from_config({k: v for k, v in config.items() if k != "spec"})
    facts = experiment.facts if experiment.data.train else stand_in(experiment.data)
    # Texts for a method of the user's own are of no type yet, and JSON would take them for strings.
    objective = {
        key: literal(value) if isinstance(value, Text) else value
        for key, value in config.get("objective", {}).items()
    }
    return {
        **config,
        "objective": objective,
        "spec": dataclasses.asdict(make_spec(experiment.train, facts)),
    }


def stand_in(data: DataConfig) -> Facts:
    """ImageNet's sizes; of captions the vocabulary that the config asks to learn, whole."""
    size = data.tokenizer.removeprefix("train:")
    # Padding, start and end come on top of the pieces.
    pieces = int(size) if data.tokenizer.startswith("train:") and size.isdecimal() else BYTES.pieces
    vocabulary = pieces + BYTES.vocabulary - BYTES.pieces
    return Facts(
        IMAGENET.name,
        IMAGENET.examples,
        IMAGENET.classes,
        data.channels or IMAGENET.channels,
        vocabulary=vocabulary,
    )


def find_batch(config: Mapping[str, Any], topology: str, slices: int, console: Console) -> Report:
    """The report of the largest power of two of images a chip that fits, or of one image if none
    does. Starts at the config's batch and prints each try.
    """
    chips = slices * math.prod(int(n) for n in topology.partition(":")[2].split("x") if n.isdigit())
    batch = config.get("train", {}).get("batch_size", 256)
    tried: dict[int, Report] = {}

    def fits(size: int) -> bool:
        train = {**config.get("train", {}), "batch_size": size * chips}
        with console.status(f"compiling {size} images a chip"):
            tried[size] = compile_step({**config, "train": train}, topology, slices)
        memory = tried[size]["memory"]["peak"]
        needs = _gib(memory) if memory else tried[size]["message"]
        enough = bool(tried[size]["fits"])
        console.print(f"{size:>6} images a chip: {'fits' if enough else 'too many'}, {needs}")
        return enough

    best = 2 ** int(math.log2(max(batch // chips, 1)))
    for size in _search(best, fits):
        best = size
    return tried[best]


def _search(start: int, fits: Any) -> Iterator[int]:
    """Sizes that fit, larger ones later, or 1 if none does."""
    size = start
    if fits(size):
        yield size
        while fits(2 * size):
            size *= 2
            yield size
        return
    while size > 1:
        size //= 2
        if fits(size):
            break
    yield size


def show(console: Console, title: str, report: Report) -> None:
    """The tables."""
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
    if report["flops"]:
        console.print(
            f"{report['flops'] / 1e12:,.4g} TFLOP a step, {report['flops_per_image'] / 1e9:,.4g} "
            f"GFLOP an image (matrix products and convolutions; all chips)\n"
            f"{report['bytes'] / 1e9:,.4g} GB read and written in HBM a step and chip, "
            f"{report['bytes_per_image'] / 1e6:,.4g} MB an image"
        )
    if report["unknown"]:
        console.print(
            styled(
                ("not counted in full:", "yellow"),
                f" {', '.join(report['unknown'])} (a loop without a known number of turns counts "
                "once, a kernel without a cost estimate has no FLOPs)",
            )
        )
    if report["bound"]:
        console.print(_bound_line(report["bound"], report["links"]))
    verdict = ("fits", "bold green") if report["fits"] else ("does not fit", "bold red")
    console.print(styled(verdict, f" {report['message']}".rstrip()))


def _memory_table(memory: Mapping[str, Any]) -> Table:
    table = Table(title="HBM a chip", title_justify="left")
    table.add_column("part")
    table.add_column("GiB", justify="right")
    names = {
        "parameters": "parameters",
        "optimizer": "optimizer state",
        "extra": "extra (statistics, teacher, queue)",
        "batch": "batch",
        "padding": "padding of these",
        "activations": "activations and gradients",
        "results": "results beside them",
        "program": "program",
        "peak": "all",
        "capacity": "of the chip",
    }
    for key, name in names.items():
        if memory[key] is not None:
            table.add_row(name, f"{memory[key] / GIB:.3f}", end_section=key == "program")
    return table


def _links_table(links: list[Mapping[str, Any]]) -> Table:
    table = Table(title="Collectives a step", title_justify="left")
    for column in ("kind", "mesh axes"):
        table.add_column(column)
    for column in ("count", "MB a chip"):
        table.add_column(column, justify="right")
    for link in links:
        table.add_row(
            link["kind"], link["axes"], f"{link['count']:,}", f"{link['bytes'] / 1e6:,.3f}"
        )
    return table


def _bound_line(bound: Mapping[str, float], links: list[Mapping[str, Any]]) -> str:
    parts = {"compute": "FLOPs", "memory": "HBM", "ici": "ICI", "dcn": "network between slices"}
    times = [f"{name} {bound[key] * 1e3:.2f} ms" for key, name in parts.items() if bound[key]]
    each = ", ".join(times)
    line = (
        f"roofline bound {bound['seconds'] * 1e3:.2f} ms a step ({each}), so at most "
        f"{bound['images_per_second']:,.0f} images/s: a bound, not a prediction"
    )
    if not bound["dcn"] and any("slices" in link["axes"] for link in links):
        line += "; the network between slices is not in it, its speed is not published"
    return line


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"
