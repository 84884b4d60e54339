"""`ssl-jax prepare`: convert any images to sharded ArrayRecord files, which are fast to read.

ssl-jax prepare --data=folder:/images --output=/records --size=256
ssl-jax train --config=simclr:imagenet --data=array_record:/records --workdir=W
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from ssl_jax.core.config import flag
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, Whole
from ssl_jax.data.prepare import Quality, Shards, prepare
from ssl_jax.data.sources import open_source
from ssl_jax.run import flags as command_line
from ssl_jax.run.console import terminal


@dataclass(frozen=True, kw_only=True)
class Flags(command_line.CommonFlags):
    data: str = flag("images: folder:PATH, parquet:GLOB, tar:GLOB, npz:FILE, tfds:NAME, ...")
    output: Path = flag("folder to write; run again to resume")
    size: Whole = flag(
        "resize larger images to this short side in pixels; by default files stay unchanged",
        Shards.size,
    )
    quality: Quality | None = flag(
        f"JPEG quality of resized images; by default {Shards.quality}", None
    )
    per_shard: Count = flag("examples per file", Shards.per_shard)


def main(argv: list[str]) -> int:
    flags = command_line.parse(argv, __doc__, Flags)
    output = flags.output
    if flags.quality is not None and not flags.size:
        raise UserError("--quality applies to resized images; set --size, or leave --quality out")
    shards = Shards(flags.size, flags.quality or Shards.quality, flags.per_shard)
    source, console = open_source(flags.data), terminal()
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("preparing", total=len(source))
        manifest = prepare(source, output, shards, lambda done: bar.update(task, completed=done))
    left_out = [text for shard in manifest["shards"] for text in shard["left_out"]]
    for text in left_out[:10]:
        console.print(f"left out: {text}")
    if len(left_out) > 10:
        console.print(f"left out: {len(left_out) - 10} more, named in {output}/manifest.json")
    console.print(
        f"{output}: {manifest['examples']:,} images in {len(manifest['shards'])} file(s), "
        f"{len(manifest['class_names'])} classes, {len(left_out)} left out"
    )
    console.print(f"next: ssl-jax train {shlex.quote(f'--data=array_record:{output}')} --workdir=W")
    return 0
