"""`ssl-jax embed`: the features of a data set, by a trained encoder, in one file.

ssl-jax embed --workdir=W --data=folder:/images --output=e.npz
ssl-jax embed --workdir=W --data=folder:/images --output=e.parquet --stage=-2 --pool=grid
ssl-jax embed --workdir=W --data=folder:/images --output=patches.array_record --patches
ssl-jax embed --workdir=W --data=folder:/images --output=e.npz --neighbors=10
ssl-jax embed --weights=dino.pth --data=folder:/images --output=e.npz

Killed and run again, it goes on where it was. docs/embeddings.md says what is in the files.
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
from ssl_jax.embed.encoder import UNPOOLED, Encoder
from ssl_jax.run import flags as command_line
from ssl_jax.run import weights_file
from ssl_jax.run.console import terminal
from ssl_jax.run.experiment import Experiment, range_of
from ssl_jax.run.load import load
from ssl_jax.train import workdir
from ssl_jax.train.progress import Line, duration

FLAGS = {
    "workdir": "folder of the run whose encoder is used",
    "weights": weights_file.HELP,
    "step": "which checkpoint; by default the newest",
    "data": "images: folder:PATH, parquet:GLOB, tar:GLOB, npz:FILE, ...; by default the run's own",
    "split": "train or eval, of data that define both; by default train",
    "output": f"the file to write, FILE{' or FILE'.join(formats.FORMATS)}; run again to go on",
    "stage": "the layer, a number (-1 is the last) or its name; by default the method's",
    "pool": "pooled (the network's own output), avg, grid (2 x 2 averages), cls, or none: a vector "
    "per place; by default the method's",
    "patches": "the same as --pool=none",
    "batch_size": "images at once, over all devices; by default 256",
    "threads": "that decode images; by default one a core",
    "max_bad_fraction": "more broken images than this share end it; by default 0.01",
    "neighbors": "also write the so many nearest other images of each, FILE.neighbors.npz",
    "config.backbone.KEY": weights_file.BACKBONE_HELP,
    **distributed.FLAGS,
}
SHOWN = 10  # broken images


def main(argv: list[str]) -> int:
    flags, overrides = command_line.parse(
        argv, __doc__, FLAGS, configurable=True, switches=("patches",)
    )
    backbone = weights_file.backbone_of(overrides, flags.weights)
    if bool(flags.workdir) == bool(flags.weights):
        raise UserError("name either the folder of a run, --workdir=W, or a file, --weights=F")
    where = Path(flags.workdir or flags.weights)
    output = Path(command_line.require(flags, "output", "name the file to write, --output=e.npz"))
    formats.of(output)
    batch_size = command_line.whole("batch_size", flags.batch_size, 256, least=1)
    count = command_line.whole("neighbors", flags.neighbors, 0, least=1)
    step = command_line.whole("step", flags.step)
    threads = command_line.whole("threads", flags.threads, 0)
    pool = pooling(flags.pool, flags.patches)
    if count and pool == UNPOOLED:
        raise UserError("--neighbors compares whole images: leave --patches and --pool=none out")
    if flags.split not in ("", "train", "eval"):
        raise UserError(f"--split={flags.split}: expected train or eval")
    if flags.weights and not flags.data:
        raise UserError("--data is missing: name the images, --data=folder:/images")
    data = flags.data or Experiment.from_config(workdir.read_config(where)).data.train
    if not output.parent.is_dir():
        raise UserError(f"--output={output}: there is no folder {output.parent}")

    def work() -> int:
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
        known = range_of(encoder.config) if encoder.config else ()
        source = read_alike(open_source(data, flags.split or "train"), known)
        most = fraction(flags.max_bad_fraction)
        job = run.Job(encoder, source, output, mesh, batch_size, threads, most)
        console.print(
            f"{source.name}: {len(source):,} images, {said(encoder)}, {mesh.size} "
            f"{mesh.devices.flat[0].platform} device(s), {job.batch} at once",
        )
        there = output.exists()
        with ImagesLine(console, len(source)) as line:
            line.phase("compiling", brief=True)
            about = run.embed(job, line.update)
        tell(console, output, about, "was there already" if there else line.summary)
        if count:
            near = neighbors.path_of(output)
            neighbors.write(output, near, count, mesh)
            console.print(neighbors.usage(output, near))
        return 0

    with distributed.session(flags.flag_values_dict()):
        return interruptible(work, "the same command goes on from the parts that are written")


def pooling(pool: str, patches: bool) -> str | None:
    """The pooling asked for.

    Raises:
      UserError: --patches with another --pool.
    """
    if patches and pool not in ("", UNPOOLED):
        raise UserError(f"--patches and --pool={pool}: give one of them")
    return UNPOOLED if patches else pool or None


def layer(text: str) -> int | str | None:
    """A layer's number or name; None where none is given."""
    return int(text) if text.removeprefix("-").isdecimal() else text or None


def fraction(text: str) -> float:
    """A share.

    Raises:
      UserError: it is none.
    """
    try:
        value = float(text) if text else DataConfig.max_bad_fraction
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UserError(f"--max_bad_fraction={text}: expected a number from 0 to 1")
    return value


def said(encoder: Encoder) -> str:
    """Which features."""
    shape = " x ".join(map(str, encoder.feature_shape))
    name = encoder.layers[encoder.probe.stage]
    return f"{shape} features of {name} (pool {encoder.probe.pool}), {encoder.origin}"


def tell(console: Console, output: Path, about: dict, done: str) -> None:
    """What was written, and what was left out."""
    left_out = about["left_out"]
    lines = [f"left out, broken: {path}" for path in left_out[:SHOWN]]
    if len(left_out) > SHOWN:
        lines.append(f"left out, broken: {len(left_out) - SHOWN:,} more, listed in the file")
    size = output.stat().st_size / 2**20
    lines.append(f"{output}: {about['rows']:,} rows, {size:,.1f} MiB, {done}")
    console.print("\n".join(lines))


class ImagesLine(Line):
    """Images done of all, images per second, time to go."""

    def __init__(self, console: Console, total: int) -> None:
        super().__init__(console, lambda done: f"{done:>9,}/{total:,} images", total)
        self._total = total
        self._first: tuple[int, float] | None = None  # after compilation
        self._begun, self._new = time.monotonic(), 0

    def update(self, done: int, new: int) -> None:
        """`done` images, of which this run did `new`."""
        self._new = new
        if new:
            self.show(done, self._text(new, done))
        elif done:
            self.console.print(f"{done:,} of {self._total:,} images are done already")

    @property
    def summary(self) -> str:
        """What this run did."""
        return f"{self._new:,} images in {duration(time.monotonic() - self._begun)}"

    def _text(self, new: int, done: int) -> str:
        now = time.monotonic()
        if self._first is None or now == self._first[1]:
            self._first = (new, now)
            return ""
        pace = (new - self._first[0]) / (now - self._first[1])
        return f"{pace:,.0f} images/s  ETA {duration((self._total - done) / pace)}"
