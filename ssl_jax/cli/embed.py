"""`ssl-jax embed`: compute the features of a data set by a trained encoder, into one file.

ssl-jax embed --workdir=W --data=folder:/images --output=e.npz
ssl-jax embed --workdir=W --data=folder:/images --output=e.parquet --stage=-2 --pool=grid
ssl-jax embed --workdir=W --data=folder:/images --output=patches.array_record --patches
ssl-jax embed --workdir=W --data=folder:/images --output=e.npz --neighbors=10
ssl-jax embed --weights=dino.pth --data=folder:/images --output=e.npz

Run an interrupted command again to resume it. docs/embeddings.md describes the files.
"""

from ssl_jax.run import flags as command_line
from ssl_jax.run.commands.embed import Flags, embed


def main(argv: list[str]) -> int:
    embed(command_line.parse(argv, __doc__, Flags))
    return 0
