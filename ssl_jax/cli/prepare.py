"""`ssl-jax prepare`: convert any images to sharded ArrayRecord files, which are fast to read, or
clips to images with masks of what moves.

ssl-jax prepare --data=folder:/images --output=/records --size=256
ssl-jax prepare --data=frames:/clips --output=/moving --masks=motion
ssl-jax train --config=simclr:imagenet --data=array_record:/records --workdir=W
"""

import shlex
from pathlib import Path

from rich.progress import Progress

from ssl_jax.core.errors import UserError
from ssl_jax.data.moving import prepare_masks
from ssl_jax.data.prepare import Shards, prepare
from ssl_jax.data.sources import open_source
from ssl_jax.run import flags as command_line
from ssl_jax.run.console import terminal

FLAGS = {
    "data": "images: folder:PATH, parquet:GLOB, tar:GLOB, npz:FILE, tfds:NAME, ...",
    "output": "folder to write; run again to resume",
    "size": "resize larger images to this short side in pixels; by default files stay unchanged",
    "quality": "JPEG quality of resized images; by default 90",
    "per_shard": "examples per file; by default 10000",
    "masks": "motion: write the frames of clips and masks of what moves in them, found by optical "
    "flow and voting, into output/images and output/masks",
}


def main(argv: list[str]) -> int:
    flags, _ = command_line.parse(argv, __doc__, FLAGS)
    data = command_line.require(flags, "data", "name the images, --data=folder:/path")
    output = Path(command_line.require(flags, "output", "name a folder to write, --output=/y"))
    numbers = {
        name: command_line.whole(name, text)
        for name in ("size", "quality", "per_shard")
        if (text := flags[name].value)
    }
    if "quality" in numbers and "size" not in numbers:
        raise UserError("--quality applies to resized images; set --size, or leave --quality out")
    masks = flags["masks"].value
    if masks and masks != "motion":
        raise UserError(f"--masks: expected motion, got {masks!r}")
    if masks and "per_shard" in numbers:
        raise UserError("--per_shard applies to shards; leave it out with --masks")
    shards, source, console = Shards(**numbers), open_source(data), terminal()
    write = prepare_masks if masks else prepare
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("preparing", total=len(source))
        manifest = write(source, output, shards, lambda done: bar.update(task, completed=done))
    left_out = manifest.get("left_out") or []
    left_out += [text for shard in manifest.get("shards", ()) for text in shard["left_out"]]
    for text in left_out[:10]:
        console.print(f"left out: {text}")
    if len(left_out) > 10:
        console.print(f"left out: {len(left_out) - 10} more, named in {output}/manifest.json")
    if masks:
        contents = f"{manifest['examples']:,} images with masks, {len(left_out)} clips left out"
        prepared = f"folder:{output}/images"
    else:
        contents = (
            f"{manifest['examples']:,} images in {len(manifest['shards'])} file(s), "
            f"{len(manifest['class_names'])} classes, {len(left_out)} left out"
        )
        prepared = f"array_record:{output}"
    console.print(f"{output}: {contents}")
    console.print(f"next: ssl-jax train {shlex.quote(f'--data={prepared}')} --workdir=W")
    return 0
