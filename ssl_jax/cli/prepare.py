"""`ssl-jax prepare`: convert any images to sharded ArrayRecord files, which are fast to read.

ssl-jax prepare --data=folder:/images --output=/records --size=256
ssl-jax train --config=simclr:imagenet --data=array_record:/records --workdir=W
"""

import shlex
from pathlib import Path

from rich.progress import Progress

from ssl_jax.core.errors import UserError
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
    shards, source, console = Shards(**numbers), open_source(data), terminal()
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
