"""`ssl-jax duplicates`: list images that are copies of each other, exact or near.

ssl-jax duplicates --workdir=W --data=folder:/images --output=duplicates.csv
ssl-jax duplicates --workdir=W --data=folder:/images --output=duplicates.csv --threshold=0.98
ssl-jax duplicates --weights=dino.pth --data=folder:/images --output=duplicates.parquet

The table has a row per image that has a copy, in groups; a contact sheet is written beside it. The
features are kept in FILE.features.npz, so another threshold takes seconds. docs/curating.md
describes the files.
"""

from ssl_jax.run import flags as command_line
from ssl_jax.run.commands.duplicates import Flags, duplicates


def main(argv: list[str]) -> int:
    duplicates(command_line.parse(argv, __doc__, Flags))
    return 0
