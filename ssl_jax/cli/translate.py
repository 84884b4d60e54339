"""`ssl-jax translate`: translate images by a trained generator, into a folder of PNG images.

ssl-jax translate --workdir=W --data=folder:/photographs --output=sketches

Run an interrupted command again to resume it. docs/methods/translation.md describes the folder.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ssl_jax.core import sharding
from ssl_jax.core.config import flag
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, Probability, Whole
from ssl_jax.core.stop import interruptible
from ssl_jax.data.pipeline import DataConfig
from ssl_jax.data.sources import open_source
from ssl_jax.data.survey import read_alike
from ssl_jax.embeddings import translate
from ssl_jax.run import flags as command_line
from ssl_jax.run.commands.embed import ImagesLine
from ssl_jax.run.console import terminal
from ssl_jax.run.datasets import range_of
from ssl_jax.run.load import load

LISTED = 10  # corrupt images


@dataclass(frozen=True, kw_only=True)
class Flags(command_line.CommonFlags):
    workdir: Path = flag("folder of the run whose generator is used")
    step: Whole | None = flag("step of the checkpoint; by default the newest", None)
    data: str = flag("images to translate: folder:PATH, parquet:GLOB, tar:GLOB, npz:FILE, ...")
    split: Literal["train", "eval"] = flag("part of data that define both", "eval")
    output: Path = flag("folder to write the images to; run again to resume")
    batch_size: Count = flag("images per batch, over all devices", 16)
    threads: Whole = flag("threads that decode images; by default one per core", 0)
    max_bad_fraction: Probability = flag(
        "share of corrupt images above which the command fails", DataConfig.max_bad_fraction
    )


def main(argv: list[str]) -> int:
    flags = command_line.parse(argv, __doc__, Flags)
    output = flags.output
    if not output.parent.is_dir():
        raise UserError(f"--output={output}: no folder {output.parent}")
    with interruptible("the same command goes on from the images that are written"):
        console, mesh = terminal(), sharding.make_mesh(sharding.MeshConfig())
        encoder = load(flags.workdir, step=flags.step, mesh=mesh)
        source = read_alike(open_source(flags.data, flags.split), range_of(encoder.config))
        limits = flags.batch_size, flags.threads, flags.max_bad_fraction
        job = translate.TranslationJob(encoder, source, output, mesh, *limits)
        height, width = encoder.view.sides
        console.print(
            f"{source.name}: {len(source):,} images, translated at {width} x {height} px by "
            f"{encoder.origin}"
        )
        existed = not translate.vacant(output)
        with ImagesLine(console, len(source)) as line:
            line.phase("compiling", brief=True)
            metadata = translate.translate(job, line.update)
        left_out = metadata["left_out"]
        for path in left_out[:LISTED]:
            console.print(f"left out, corrupt: {path}")
        if len(left_out) > LISTED:
            more = len(left_out) - LISTED
            console.print(f"left out, corrupt: {more:,} more, listed in {translate.METADATA}")
        done = "already complete" if existed else line.summary
        console.print(f"{output}: {len(metadata['images']):,} images, {done}")
    return 0
