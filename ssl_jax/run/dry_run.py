"""`ssl-jax train --dry_run`: what a run would take, without starting it."""

import os
from collections.abc import Iterator
from pathlib import Path

import jax
from rich.console import Console

from ssl_jax.core import distributed, files
from ssl_jax.core.errors import UserError
from ssl_jax.cost import aot
from ssl_jax.cost.chips import GIB
from ssl_jax.run import auto, restart
from ssl_jax.run.contact_sheet import contents, write_contact_sheet
from ssl_jax.run.experiment import Experiment
from ssl_jax.training.step import make_kernel

EXAMPLES = 12  # images in the picture
SHOWN = 2**20 // 20  # bytes above which a part is named, as smaller ones read 0.0 MiB
PARTS = {
    "parameters": "parameters",
    "optimizer": "optimizer state",
    "extra": "other state",
    "batch": "batch",
    "activations": "activations and gradients",
}


def show(experiment: Experiment, folder: Path, console: Console) -> None:
    """Print the memory and the time that the run in `folder` would take, and draw its first images
    beside the folder. Nothing is written into the folder.

    Raises:
      UserError: the folder, or the picture, cannot be written.
    """
    if problem := files.unwritable(folder):
        raise UserError(f"cannot write to --workdir={folder}: {problem}")
    train = experiment.train
    total = experiment.spec.total_steps
    end, done = min(train.stop_at or total, total), max(restart.newest(folder), 0)
    state = f"holds a run at step {done:,}, which would resume" if done else "would be a new run"
    console.print(f"{folder}: {state}; it ends at step {end:,}")
    with console.status("compiling the step"):
        lines = list(memory_lines(experiment))
    for line in lines:
        console.print(line)
    if experiment.acts:
        console.print("picture: none, as an environment has no images before the run acts in it")
        return
    if experiment.mesh.devices.flat[0].platform != "cpu":
        console.print("time: no estimate on accelerators; the progress line of a run shows it")
    elif end > done:
        kernel = make_kernel(experiment.objective, experiment.tx, experiment.schedule)
        console.print(auto.estimate(experiment, kernel, end - done))
    if distributed.primary():
        picture = picture_of(folder)
        examples = min(EXAMPLES, experiment.spec.global_batch)
        picture.parent.mkdir(parents=True, exist_ok=True)  # as a run would make it
        write_contact_sheet(experiment, examples, picture, f"the picture {picture}")
        console.print(f"{picture}: the first {contents(experiment, examples)}")
    console.print("nothing was trained; leave out --dry_run to train")


def picture_of(folder: Path) -> Path:
    """Return the path of the picture: beside the run's folder."""
    whole = Path(os.path.abspath(folder))  # noqa: PTH100  resolve() would follow links
    return whole.with_name(f"{whole.name}.dry_run.png")


def memory_lines(experiment: Experiment) -> Iterator[str]:
    """Compile the step for the devices at hand; describe the memory that one of them needs."""
    report, _ = aot.compile_step(
        experiment.objective,
        experiment.tx,
        experiment.schedule,
        experiment.mesh,
        experiment.abstract_state,
        experiment.placed,
    )
    memory, room = report.memory, capacity(experiment.mesh.devices.flat[0], report.memory.capacity)
    limit = f" of {size(room)}" if room else ""
    if memory.peak is None:
        yield f"memory per device: does not fit: {report.message}"
        return
    sizes = {text: getattr(memory, name) for name, text in PARTS.items()}
    sizes["other"] = memory.peak - sum(sizes.values())
    parts = " + ".join(f"{text} {size(count)}" for text, count in sizes.items() if count > SHOWN)
    yield f"memory per device: about {size(memory.peak)}{limit} = {parts}"
    yield (
        f"  an estimate: the compiler's plan of one step on {report.device}, without prefetched "
        "batches, evaluations and the program's own memory"
    )
    if room and memory.peak > room:
        yield (
            "  warning: more than the device has; set a smaller train.batch_size, "
            "train.accumulate or mesh.fsdp"
        )


def size(count: int) -> str:
    """Format a number of bytes."""
    return f"{count / GIB:,.2f} GiB" if count >= GIB else f"{count / 2**20:,.1f} MiB"


def capacity(device: jax.Device, published: int = 0) -> int:
    """Return the memory in bytes that a device can use, `published` if it does not report it, 0 if
    unknown. CPU devices share the memory of the host.
    """
    if device.platform == "cpu":
        return files.host_memory() // jax.local_device_count()
    return int((device.memory_stats() or {}).get("bytes_limit", published))
