"""Compile the training step of a config for a TPU topology, without the TPU."""

import dataclasses
import importlib.util
import json
import math
import subprocess
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console

from ssl_jax import nets
from ssl_jax.core import trust
from ssl_jax.core.errors import UserError
from ssl_jax.core.plain import Text, literal
from ssl_jax.cost.chips import GIB
from ssl_jax.data.pipeline import DataConfig
from ssl_jax.data.text import BYTES
from ssl_jax.run.datasets import Facts, make_spec
from ssl_jax.run.experiment import Experiment

# The ILSVRC 2012 training set, which the `imagenet` recipes are for.
IMAGENET = Facts("ImageNet", examples=1_281_167, classes=1000)

# The worker only compiles, so it queries no metadata server for a TPU and claims none; several such
# processes may run at once.
WORKER_ENV = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "JAX_TRACEBACK_FILTERING": "off",  # its note would be the last line, not the error
}

Report = dict[str, Any]


def compile_step(
    config: Mapping[str, Any], topology: str, slices: int = 1, hlo: str = ""
) -> Report:
    """Compile in a separate process; return `cost.aot.Report` as plain values. The text of the
    program is written to the file `hlo`, if set.

    Raises:
      UserError: libtpu is not installed, no such topology, or an invalid config.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "libtpu, the TPU compiler, is not installed: pip install -e '.[tpu]' in your clone of "
            "ssl_jax (no TPU needed)"
        )
    request = {"config": with_spec(config), "topology": topology, "slices": slices, "hlo": hlo}
    request["trust_code"] = trust.trusted()
    command, base = trust.python("ssl_jax.run.compile_worker")
    run = subprocess.run(
        command,
        input=json.dumps(request),
        env={**base, **WORKER_ENV},
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
    """Add the `spec` to a config: from its data if it names any, else from ImageNet's sizes."""
    experiment = Experiment.from_config({k: v for k, v in config.items() if k != "spec"})
    facts = experiment.facts if experiment.data.train else stand_in(experiment.data)
    # Texts for the user's own method have no type yet; JSON would make them strings.
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
    """Return facts of ImageNet's size; for captions with the vocabulary that the config sets."""
    size = data.tokenizer.removeprefix("train:")
    # Padding, start and end are added to the pieces.
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
    """Report on the largest power of two of images per chip that fits, or on one image if none
    does. Starts at the config's batch and prints each try.
    """
    chips = slices * math.prod(int(n) for n in topology.partition(":")[2].split("x") if n.isdigit())
    batch = config.get("train", {}).get("batch_size", 256)
    tried: dict[int, Report] = {}

    def fits(size: int) -> bool:
        train = {**config.get("train", {}), "batch_size": size * chips}
        with console.status(f"compiling {size} images per chip"):
            tried[size] = compile_step({**config, "train": train}, topology, slices)
        memory = tried[size]["memory"]["peak"]
        needs = _gib(memory) if memory else tried[size]["message"]
        enough = bool(tried[size]["fits"])
        console.print(f"{size:>6} images per chip: {'fits' if enough else 'too many'}, {needs}")
        return enough

    best = 2 ** int(math.log2(max(batch // chips, 1)))
    for size in _search(best, fits):
        best = size
    return tried[best]


def compare_remat(
    config: Mapping[str, Any], topology: str, slices: int, console: Console
) -> Report:
    """Compile with each of the backbone's policies of rematerialisation and print what it costs;
    return the report of the one with the lowest bound among those that fit, with its name as
    "remat" and those of all as "policies".

    Raises:
      UserError: the backbone has no policies.
    """
    backbone = config.get("backbone", {})
    name = backbone.get("name", nets.DEFAULT)
    hints = typing.get_type_hints(nets.backbone_class(name))
    if "remat" not in hints:
        raise UserError(f"--remat: the backbone {name!r} has no policies; leave --remat out")
    tried: dict[str, Report] = {}
    for policy in typing.get_args(hints["remat"]):
        changed = {**config, "backbone": {**backbone, "remat": policy}}
        with console.status(f"compiling with remat {policy}"):
            tried[policy] = compile_step(changed, topology, slices)
        console.print(f"{policy:>13}: {_costs(tried[policy])}")
    best = min(tried, key=lambda policy: _rank(tried[policy]))
    return tried[best] | {"remat": best, "policies": tried}


def _rank(report: Report) -> tuple[bool, float, int]:
    """Order reports: those that fit, by the bound, then by memory."""
    bound, peak = report["bound"], report["memory"]["peak"]
    return not report["fits"], bound["seconds"] if bound else math.inf, peak or 0


def _costs(report: Report) -> str:
    if not report["memory"]["peak"]:
        return f"does not fit, {report['message']}"
    bound = f"{report['bound']['seconds'] * 1e3:.1f} ms" if report["bound"] else "unknown"
    return (
        f"{report['bytes_per_image'] / 1e6:,.0f} MB and {report['flops_per_image'] / 1e9:,.1f} "
        f"GFLOP per image, {_gib(report['memory']['peak'])} per chip, bound {bound} per step, "
        + ("fits" if report["fits"] else "does not fit")
    )


def _search(start: int, fits: Any) -> Iterator[int]:
    """Yield sizes that fit, in increasing order, or 1 if none does."""
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


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"
