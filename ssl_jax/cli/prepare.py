"""`ssl-jax prepare`: any images to sharded ArrayRecord files, once, for fast reading ever after.

ssl-jax prepare --data=folder:/images --output=/records --size=256
ssl-jax train --config=simclr:imagenet --data=array_record:/records --workdir=W
"""

from pathlib import Path

from rich.progress import Progress

from ssl_jax.core.errors import UserError
from ssl_jax.data.prepare import Shards, prepare
from ssl_jax.data.sources import open_source
from ssl_jax.run import flags as command_line
from ssl_jax.run.console import terminal

FLAGS = {
    "data": "images: folder:PATH, parquet:GLOB, tar:GLOB, npz:FILE, tfds:NAME, ...",
    "output": "the folder to write; run again to go on",
    "size": "bring the short side of larger images to so many pixels; by default files stay as is",
    "quality": "of the JPEGs that resizing makes; by default 90",
    "per_shard": "examples of a file; by default 10000",
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
        raise UserError("--quality is of images that are resized; give --size, or leave it out")
    shards, source, console = Shards(**numbers), open_source(data), terminal()
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("preparing", total=len(source))
        made = prepare(source, output, shards, lambda done: bar.update(task, completed=done))
    left_out = [text for shard in made["shards"] for text in shard["left_out"]]
    for text in left_out[:10]:
        console.print(f"left out: {text}")
    if len(left_out) > 10:
        console.print(f"left out: {len(left_out) - 10} more, named in {output}/manifest.json")
    console.print(
        f"{output}: {made['examples']:,} images in {len(made['shards'])} file(s), "
        f"{len(made['class_names'])} classes, {len(left_out)} left out"
    )
    console.print(f"next: ssl-jax train --data=array_record:{output} --workdir=W")
    return 0
