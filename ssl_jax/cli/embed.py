"""`ssl-jax embed`: compute the features of a data set by a trained encoder, into one file.

ssl-jax embed --workdir=W --data=folder:/images --output=e.npz
ssl-jax embed --workdir=W --data=folder:/images --output=e.parquet --stage=-2 --pool=grid
ssl-jax embed --workdir=W --data=folder:/images --output=patches.array_record --patches
ssl-jax embed --workdir=W --data=folder:/images --output=e.npz --neighbors=10
ssl-jax embed --weights=dino.pth --data=folder:/images --output=e.npz

Run an interrupted command again to resume it. docs/embeddings.md describes the files.
"""

import time
from pathlib import Path

from rich.console import Console

from ssl_jax.core import distributed, sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.stop import interruptible
from ssl_jax.data.pipeline import DataConfig
from ssl_jax.data.sources import open_source
from ssl_jax.data.survey import read_alike
from ssl_jax.embed import formats, neighbors, run
from ssl_jax.embed.encoder import UNPOOLED, ImageEncoder
from ssl_jax.run import flags as command_line
from ssl_jax.run import weights_file
from ssl_jax.run.console import terminal
from ssl_jax.run.datasets import range_of
from ssl_jax.run.experiment import Experiment
from ssl_jax.run.load import load
from ssl_jax.train import workdir
from ssl_jax.train.progress import StatusLine, duration

FLAGS = {
    "workdir": "folder of the run whose encoder is used",
    "weights": weights_file.HELP,
    "step": "step of the checkpoint; by default the newest",
    "data": "images: folder:PATH, parquet:GLOB, tar:GLOB, npz:FILE, ...; by default the run's own",
    "split": "train or eval, of data that define both; by default train",
    "output": f"the file to write, FILE{' or FILE'.join(formats.FORMATS)}; run again to resume",
    "stage": "layer, a number (-1 is the last) or a name; by default the method's",
    "pool": "pooled (the network's own output), avg, grid (2 x 2 averages), cls, or none: a vector "
    "per position; by default the method's",
    "patches": "the same as --pool=none",
    "batch_size": "images per batch, over all devices; by default 256",
    "threads": "threads that decode images; by default one per core",
    "max_bad_fraction": "share of corrupt images above which the command fails; by default 0.01",
    "neighbors": "also write this number of nearest other images of each to FILE.neighbors.npz",
    "config.backbone.KEY": weights_file.BACKBONE_HELP,
    **distributed.FLAGS,
}
LISTED = 10  # corrupt images


def main(argv: list[str]) -> int:
    flags, overrides = command_line.parse(
        argv, __doc__, FLAGS, configurable=True, switches=("patches",)
    )
    backbone = weights_file.backbone_of(overrides, flags.weights)
    if bool(flags.workdir) == bool(flags.weights):
        raise UserError("set either --workdir=W, the folder of a run, or --weights=F, a file")
    where = Path(flags.workdir or flags.weights)
    output = Path(command_line.require(flags, "output", "name the file to write, --output=e.npz"))
    formats.of(output)
    batch_size = command_line.whole("batch_size", flags.batch_size, 256, least=1)
    count = command_line.whole("neighbors", flags.neighbors, 0, least=1)
    step = command_line.whole("step", flags.step)
    threads = command_line.whole("threads", flags.threads, 0)
    pool = pooling(flags.pool, flags.patches)
    if count and pool == UNPOOLED:
        raise UserError("--neighbors compares whole images; leave --patches and --pool=none out")
    if flags.split not in ("", "train", "eval"):
        raise UserError(f"--split={flags.split}: expected train or eval")
    if flags.weights and not flags.data:
        raise UserError("--data is missing: name the images, --data=folder:/images")
    data = flags.data or Experiment.from_config(workdir.read_config(where)).data.train
    if not output.parent.is_dir():
        raise UserError(f"--output={output}: no folder {output.parent}")

    ending = interruptible("the same command goes on from the parts that are written")
    with distributed.session(flags.flag_values_dict()), ending:
        console = terminal()
        mesh = sharding.make_mesh(sharding.MeshConfig())
        encoder = load(
            where,
            step=step,
            stage=layer(flags.stage),
            pool=pool,
            mesh=mesh,
            backbone=backbone or None,
        )
        pixel_range = range_of(encoder.config) if encoder.config else ()
        source = read_alike(open_source(data, flags.split or "train"), pixel_range)
        most = fraction(flags.max_bad_fraction)
        job = run.Job(encoder, source, output, mesh, batch_size, threads, most)
        console.print(
            f"{source.name}: {len(source):,} images, {features_of(encoder)}, {mesh.size} "
            f"{mesh.devices.flat[0].platform} device(s), {job.batch} at once",
        )
        existed = output.exists()
        with ImagesLine(console, len(source)) as line:
            line.phase("compiling", brief=True)
            metadata = run.embed(job, line.update)
        report(console, output, metadata, "already complete" if existed else line.summary)
        if count:
            near = neighbors.path_of(output)
            neighbors.write(output, near, count, mesh)
            console.print(neighbors.usage(output, near))
    return 0


def pooling(pool: str, patches: bool) -> str | None:
    """Return the requested pooling, None for the method's.

    Raises:
      UserError: --patches with another --pool.
    """
    if patches and pool not in ("", UNPOOLED):
        raise UserError(f"--patches and --pool={pool}: give one of them")
    return UNPOOLED if patches else pool or None


def layer(text: str) -> int | str | None:
    """Return a layer's number or name; None for an empty text."""
    return int(text) if text.removeprefix("-").isdecimal() else text or None


def fraction(text: str) -> float:
    """Convert the text of --max_bad_fraction.

    Raises:
      UserError: not a number from 0 to 1.
    """
    try:
        value = float(text) if text else DataConfig.max_bad_fraction
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UserError(f"--max_bad_fraction={text}: expected a number from 0 to 1")
    return value


def features_of(encoder: ImageEncoder) -> str:
    """Describe the encoder's features: shape, layer, pooling and origin."""
    shape = " x ".join(map(str, encoder.feature_shape))
    name = encoder.layers[encoder.probe.stage]
    return f"{shape} features of {name} (pool {encoder.probe.pool}), {encoder.origin}"


def report(console: Console, output: Path, metadata: dict, done: str) -> None:
    """Print what was written, and which images were left out."""
    left_out = metadata["left_out"]
    lines = [f"left out, corrupt: {path}" for path in left_out[:LISTED]]
    if len(left_out) > LISTED:
        lines.append(f"left out, corrupt: {len(left_out) - LISTED:,} more, listed in the file")
    size = output.stat().st_size / 2**20
    lines.append(f"{output}: {metadata['rows']:,} rows, {size:,.1f} MiB, {done}")
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
