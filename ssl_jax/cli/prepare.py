"""`ssl-jax prepare`: convert images, or clips, to sharded ArrayRecord files, which read fast.

Clips become images with masks of what moves (--motion).

ssl-jax prepare --data=folder:/images --output=/records --size=256
ssl-jax prepare --data=frames:/clips --output=/moving --motion
ssl-jax train --config=simclr:imagenet --data=array_record:/records --workdir=W

With --masks it also makes a mask of the foreground of each image, for methods that need them.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from ssl_jax.core.config import flag
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, Whole
from ssl_jax.data.foreground import check_named, write_masks
from ssl_jax.data.moving import prepare_masks
from ssl_jax.data.prepare import Quality, Shards, prepare
from ssl_jax.data.sources import Source, open_source
from ssl_jax.run import flags as command_line
from ssl_jax.run.console import terminal


@dataclass(frozen=True, kw_only=True)
class Flags(command_line.CommonFlags):
    data: str = flag("images: folder:PATH, parquet:GLOB, tar:GLOB, npz:FILE, tfds:NAME, ...")
    output: Path | None = flag("folder to write; run again to resume", None)
    masks: Path | None = flag(
        "folder to write masks NAME.png of the foreground to; run again to resume", None
    )
    motion: bool = flag(
        "write the frames of clips and masks of what moves in them, found by optical flow and "
        "voting, to OUTPUT/images and OUTPUT/masks",
        False,
    )
    size: Whole | None = flag(
        "resize larger images to this short side in pixels; by default files stay unchanged", None
    )
    quality: Quality | None = flag(
        f"JPEG quality of resized images; by default {Shards.quality}", None
    )
    per_shard: Count | None = flag(f"examples per file; by default {Shards.per_shard}", None)

    @property
    def shards(self) -> dict[str, int]:
        """The settings of the records that the command line gives."""
        settings = {"size": self.size, "quality": self.quality, "per_shard": self.per_shard}
        return {name: number for name, number in settings.items() if number is not None}


def main(argv: list[str]) -> int:
    flags = command_line.parse(argv, __doc__, Flags)
    check(flags)
    output, masks, data = flags.output, flags.masks, flags.data
    shards, source, console = Shards(**flags.shards), open_source(data), terminal()
    if masks is not None:
        check_named(source)
    if output is not None:
        data = (_frames if flags.motion else _records)(source, output, shards, console)
    if masks is not None:
        # The masks have the size of the images that are read in training.
        _mask(source if output is None else open_source(data), masks, console)
    console.print(f"next: ssl-jax train {shlex.quote(f'--data={data}')} --workdir=W")
    if masks is not None:
        setting = shlex.quote(f"--config.data.masks={masks}")
        console.print(f"      with {setting} for methods and chains that need masks")
    return 0


def check(flags: Flags) -> None:
    """Check which flags are set together.

    Raises:
      UserError: a flag lacks another one, or has no effect beside another one.
    """
    if flags.output is None:
        if flags.masks is None or flags.motion:
            raise UserError("--output is missing: name a folder to write, --output=/y")
        for name in flags.shards:
            raise UserError(f"--{name} applies to the records; set --output, or leave --{name} out")
    if flags.quality is not None and not flags.size:
        raise UserError("--quality applies to resized images; set --size, or leave --quality out")
    if flags.motion:
        for name, number in (("masks", flags.masks), ("per_shard", flags.per_shard)):
            if number is not None:
                raise UserError(f"--{name} does not apply to --motion; leave it out")


def _records(source: Source, output: Path, shards: Shards, console: Console) -> str:
    """Write records; return the data that they are."""
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("preparing", total=len(source))
        manifest = prepare(source, output, shards, lambda done: bar.update(task, completed=done))
    left_out = [text for shard in manifest["shards"] for text in shard["left_out"]]
    _show_left_out(left_out, output, console)
    console.print(
        f"{output}: {manifest['examples']:,} images in {len(manifest['shards'])} file(s), "
        f"{len(manifest['class_names'])} classes, {len(left_out)} left out"
    )
    return f"array_record:{output}"


def _frames(source: Source, output: Path, shards: Shards, console: Console) -> str:
    """Write frames and masks of what moves; return the data that they are."""
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("preparing", total=len(source))
        done = lambda count: bar.update(task, completed=count)  # noqa: E731
        manifest = prepare_masks(source, output, shards, done)
    left_out = manifest["left_out"]
    _show_left_out(left_out, output, console)
    console.print(
        f"{output}: {manifest['examples']:,} images with masks, {len(left_out)} clips left out"
    )
    return f"folder:{output}/images"


def _show_left_out(left_out: Sequence[str], output: Path, console: Console) -> None:
    for text in left_out[:10]:
        console.print(f"left out: {text}")
    if len(left_out) > 10:
        console.print(f"left out: {len(left_out) - 10} more, named in {output}/manifest.json")


def _mask(source: Source, folder: Path, console: Console) -> None:
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("masking", total=len(source))
        left_out = write_masks(source, folder, lambda done: bar.update(task, completed=done))
    console.print(f"{folder}: masks of {len(source) - left_out:,} images, {left_out} left out")
