"""Write the features of a data set, by the encoder of a run or of a weights file, to one file."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from ssl_jax.core import distributed, sharding
from ssl_jax.core.config import flag
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, Probability, Whole
from ssl_jax.core.stop import interruptible
from ssl_jax.data.pipeline import DataConfig
from ssl_jax.data.sources import Source, open_source
from ssl_jax.data.survey import read_alike
from ssl_jax.embeddings import formats, neighbors, run
from ssl_jax.embeddings.encoder import UNPOOLED, ImageEncoder
from ssl_jax.run import weights_file
from ssl_jax.run.console import terminal
from ssl_jax.run.datasets import range_of
from ssl_jax.run.experiment import Experiment
from ssl_jax.run.load import load
from ssl_jax.training import workdir
from ssl_jax.training.progress import StatusLine, duration

LISTED = 10  # corrupt images


@dataclass(frozen=True, kw_only=True)
class Flags(weights_file.EncoderFlags, distributed.ProcessFlags):
    workdir: Path | None = flag("folder of the run whose encoder is used", None)
    step: Whole | None = flag("step of the checkpoint; by default the newest", None)
    data: str = flag(
        "images: folder:PATH, parquet:GLOB, tar:GLOB, npz:FILE, ...; by default the run's own", ""
    )
    split: Literal["train", "eval"] = flag("part of data that define both", "train")
    output: Path = flag(
        f"the file to write, FILE{' or FILE'.join(formats.FORMATS)}; run again to resume"
    )
    stage: int | str | None = flag(
        "layer, a number (-1 is the last) or a name; by default the method's", None
    )
    pool: Literal["pooled", "avg", "grid", "cls", "none"] | None = flag(
        "pooled: the network's own output; grid: 2 x 2 averages; none: a vector per position; by "
        "default the method's",
        None,
    )
    patches: bool = flag("the same as --pool=none", False)
    batch_size: Count = flag("images per batch, over all devices", 256)
    threads: Whole = flag("threads that decode images; by default one per core", 0)
    max_bad_fraction: Probability = flag(
        "share of corrupt images above which the command fails", DataConfig.max_bad_fraction
    )
    neighbors: Count | None = flag(
        "also write this number of nearest other images of each to FILE.neighbors.npz", None
    )


def embed(flags: Flags, temporary: bool = False) -> None:
    """Write the file, and print what it holds.

    Args:
      temporary: whether the caller reads and removes the file, which then is not named.

    Raises:
      UserError: an error that the user must fix.
    """
    backbone, output = flags.backbone, flags.output
    where = weights_file.place(flags.workdir, flags.weights)
    formats.of(output)
    if flags.patches and flags.pool not in (None, UNPOOLED):
        raise UserError(f"--patches and --pool={flags.pool}: give one of them")
    pool = UNPOOLED if flags.patches else flags.pool
    if flags.neighbors and pool == UNPOOLED:
        raise UserError("--neighbors compares whole images; leave --patches and --pool=none out")
    if flags.weights and not flags.data:
        raise UserError("--data is missing: name the images, --data=folder:/images")
    data = flags.data or Experiment.from_config(workdir.read_config(where)).data.train
    if not output.parent.is_dir():
        raise UserError(f"--output={output}: no folder {output.parent}")

    ending = interruptible("the same command goes on from the parts that are written")
    with distributed.session(flags), ending:
        console = terminal()
        mesh = sharding.make_mesh(sharding.MeshConfig())
        encoder = load(
            where,
            step=flags.step,
            stage=flags.stage,
            pool=pool,
            mesh=mesh,
            backbone=backbone or None,
        )
        limits = flags.batch_size, flags.threads, flags.max_bad_fraction
        job = run.Job(encoder, opened(data, flags.split, encoder), output, mesh, *limits)
        write(job, console, temporary)
        if flags.neighbors:
            near = neighbors.path_of(output)
            neighbors.write(output, near, flags.neighbors, mesh)
            if not temporary:
                console.print(neighbors.usage(output, near))


def opened(data: str, split: Literal["train", "eval"], encoder: ImageEncoder) -> Source:
    """Open a data set with the range of pixels that the encoder's run had."""
    pixel_range = range_of(encoder.config) if encoder.config else ()
    return read_alike(open_source(data, split), pixel_range)


def write(job: run.Job, console: Console, temporary: bool = False) -> None:
    """Write the features, and print what was embedded and what the file holds."""
    source, mesh, output = job.source, job.mesh, job.output
    console.print(
        f"{source.name}: {len(source):,} images, {features_of(job.encoder)}, {mesh.size} "
        f"{mesh.devices.flat[0].platform} device(s), {job.batch} at once",
    )
    existed = output.exists()
    with ImagesLine(console, len(source)) as line:
        line.phase("compiling", brief=True)
        metadata = run.embed(job, line.update)
    done = "already complete" if existed else line.summary
    report(console, "" if temporary else f"{output}: ", output, metadata, done)


def features_of(encoder: ImageEncoder) -> str:
    """Describe the encoder's features: shape, layer, pooling and origin."""
    shape = " x ".join(map(str, encoder.feature_shape))
    name = encoder.layers[encoder.probe.stage]
    return f"{shape} features of {name} (pool {encoder.probe.pool}), {encoder.origin}"


def report(console: Console, name: str, output: Path, metadata: dict, done: str) -> None:
    """Print what was written, and which images were left out."""
    left_out = metadata["left_out"]
    lines = [f"left out, corrupt: {path}" for path in left_out[:LISTED]]
    if len(left_out) > LISTED:
        lines.append(f"left out, corrupt: {len(left_out) - LISTED:,} more, listed in the file")
    size = output.stat().st_size / 2**20
    lines.append(f"{name}{metadata['rows']:,} rows, {size:,.1f} MiB, {done}")
    console.print("\n".join(lines))


class ImagesLine(StatusLine):
    """Progress line: images done, images per second, remaining time."""

    def __init__(self, console: Console, total: int) -> None:
        super().__init__(console, lambda done: f"{done:>9,}/{total:,} images", total)
        self._total = total
        self._first: tuple[int, float] | None = None  # after compilation
        self._started, self._finished = time.monotonic(), 0

    def update(self, done: int, count: int) -> None:
        """Show that `done` images are done, `count` of them by this process."""
        self._finished = count
        if count:
            self.show(done, self._text(count, done))
        elif done:
            self.console.print(f"{done:,} of {self._total:,} images are done already")

    @property
    def summary(self) -> str:
        """Number of images that this process did, and its time."""
        return f"{self._finished:,} images in {duration(time.monotonic() - self._started)}"

    def _text(self, count: int, done: int) -> str:
        clock = time.monotonic()
        if self._first is None or clock == self._first[1]:
            self._first = (count, clock)
            return ""
        rate = (count - self._first[0]) / (clock - self._first[1])
        return f"{rate:,.0f} images/s  ETA {duration((self._total - done) / rate)}"
