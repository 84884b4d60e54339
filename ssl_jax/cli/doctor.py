"""`ssl-jax doctor`: check this machine: devices, versions, folders, a training step, your data.

ssl-jax doctor
ssl-jax doctor --data=folder:/images --workdir=W

It compiles the training step of simclr:digits and repeats it: ten seconds in total, unless
compiling takes longer. With --data it measures how fast one core reads the images, and how fast
the devices would train on them with the config that `ssl-jax train` chooses. The exit code is 1 if
something prevents training.
"""

import contextlib
import math
import os
import platform
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax

from ssl_jax.core import files
from ssl_jax.core.config import flag
from ssl_jax.core.versions import versions
from ssl_jax.data import cache
from ssl_jax.data.assemble import cores
from ssl_jax.run import auto, compiled, machine
from ssl_jax.run import flags as command_line
from ssl_jax.run.configs import configured, override
from ssl_jax.run.console import styled, terminal
from ssl_jax.run.dry_run import capacity, size
from ssl_jax.run.experiment import Experiment

PACKAGES = ("ssl-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
RECIPE, BATCH = "simclr:digits", 256
SECONDS = 10.0  # of each training step's measurement, with its compilation
READ_SECONDS, READ_BATCH = 3.0, 8


@dataclass(frozen=True, kw_only=True)
class Flags(command_line.CommonFlags):
    data: str = flag("images to measure: folder:DIR, npz:FILE, ... (docs/data.md)", "")
    workdir: Path | None = flag("folder of a run, which must be writable", None)


@dataclass(frozen=True)
class CheckLine:
    """A line of the report.

    Attributes:
      topic: word in front of it; "" continues the topic before.
      problem: whether it prevents training.
      warning: whether the user should do something about it.
    """

    topic: str
    text: str
    problem: bool = False
    warning: bool = False


def main(argv: list[str]) -> int:
    flags = command_line.parse(argv, __doc__, Flags)
    console = terminal()
    chosen = auto.choose(flags.data)[0] if flags.data else None  # an error is in the data's name
    failed = False
    for finding in findings(flags, chosen):
        failed |= finding.problem
        style = "bold red" if finding.problem else "yellow" if finding.warning else ""
        mark = "problem: " if finding.problem else "advice: " if finding.warning else ""
        console.print(styled((f"{finding.topic:<10}", "bold"), (f"{mark}{finding.text}", style)))
    console.print("something prevents training" if failed else "this machine can train")
    return int(failed)


def findings(flags: Flags, chosen: dict | None) -> Iterator[CheckLine]:
    """Yield the lines of the report; `chosen` is the config for the user's data."""
    packages = ", ".join(f"{name} {number}" for name, number in versions(*PACKAGES).items())
    yield CheckLine("versions", f"Python {platform.python_version()}, {packages}")
    yield CheckLine(
        "system", f"{platform.platform()}, {cores()} cores, {size(files.host_memory())}"
    )
    try:
        devices = jax.devices()
    except RuntimeError as e:
        yield CheckLine("devices", _first_line(e), problem=True)
        return
    yield from devices_seen(devices)
    yield from folders(flags.workdir)
    config = configured(RECIPE, [])
    override(config, [("train.batch_size", len(devices) * max(1, BATCH // len(devices)))])
    yield from step("step", RECIPE, config)
    if chosen is not None:
        yield from data(flags.data, chosen)


def devices_seen(devices: list[jax.Device]) -> Iterator[CheckLine]:
    """Describe JAX's devices, and the accelerators that it does not see."""
    first = devices[0]
    room = capacity(first)
    memory = f", {size(room)} each" if room and first.platform != "cpu" else ""
    yield CheckLine("devices", f"{len(devices)} x {first.device_kind} ({first.platform}){memory}")
    there = machine.accelerators()
    if not there and first.platform == "cpu":
        yield CheckLine("", "no NVIDIA GPU and no TPU on this machine")
    for accelerator in dict.fromkeys(there):
        if text := machine.advice(accelerator, first.platform, os.environ):
            yield CheckLine("", f"{accelerator.name}: {text}", warning=True)


def folders(workdir: Path | None) -> Iterator[CheckLine]:
    """Check that the caches and the run's folder can be written. Runs do without the caches."""
    try:
        index = cache.folder()
    except OSError as e:
        yield CheckLine(
            "caches", f"no folder for data indexes: {e}; set SSL_JAX_CACHE", warning=True
        )
    else:
        yield _folder("caches", "data indexes (SSL_JAX_CACHE)", index)
    with contextlib.suppress(OSError):
        named = os.environ.get("JAX_COMPILATION_CACHE_DIR") or compiled.folder()
        yield _folder("", "compiled programs (JAX_COMPILATION_CACHE_DIR)", Path(named))
    yield _folder("", "temporary files", Path(tempfile.gettempdir()))
    if workdir:
        yield _folder("workdir", "the run", workdir, needed=True)


def _folder(topic: str, content: str, folder: Path, needed: bool = False) -> CheckLine:
    if problem := files.unwritable(folder):
        text = f"{content}: {folder} cannot be written: {problem}"
        return CheckLine(topic, text, problem=needed, warning=not needed)
    free = shutil.disk_usage(files.existing(folder)).free
    return CheckLine(topic, f"{content}: {folder} is writable, {size(free)} free")


def step(topic: str, name: str, config: dict) -> Iterator[CheckLine]:
    """Measure the training step of a config."""
    try:
        rate = machine.train_rate(Experiment.from_config(config), SECONDS)
    except Exception as e:  # a broken driver or library fails in many ways
        yield CheckLine(topic, f"{name}: {type(e).__name__}: {_first_line(e)}", problem=True)
        return
    if not math.isfinite(rate.loss):
        yield CheckLine(topic, f"{name}: the loss is {rate.loss}", problem=True)
        return
    yield CheckLine(
        topic,
        f"{name}, batch {config['train']['batch_size']}: {rate.images:,.0f} images/s "
        f"({rate.steps} steps after {rate.compile_seconds:.0f} s of compilation, without reading)",
    )


def data(name: str, config: dict) -> Iterator[CheckLine]:
    """Measure how fast one core reads the images, and compare it with the training step."""
    alone = {
        **config,
        "data": {**config["data"], "threads": 1, "prefetch": 1},
        "train": {**config["train"], "batch_size": READ_BATCH},
    }
    per_core = machine.read_rate(Experiment.from_config(alone), READ_SECONDS)
    yield CheckLine("data", f"{name}: one core decodes and crops {per_core:,.0f} images/s")
    experiment = Experiment.from_config(config)
    rate = machine.train_rate(experiment, SECONDS)
    needed, there = machine.cores_for(rate.images, per_core), cores()
    text = f"the config that train chooses takes {rate.images:,.0f} images/s: {needed} core(s)"
    if needed <= there:
        yield CheckLine("", f"{text} of {there}")
        return
    advice = shlex.join(["ssl-jax", "prepare", f"--data={name}", "--output=RECORDS", "--size=256"])
    yield CheckLine("", f"{text}, but there are {there}; decode once: {advice}", warning=True)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "no message")[:300]
