"""`ssl-jax outliers`: list the odd images of a data set.

ssl-jax outliers --workdir=W --data=folder:/images --output=outliers.csv
ssl-jax outliers --workdir=W --data=folder:/images --output=outliers.csv --count=1000
ssl-jax outliers --workdir=W --data=folder:/images --output=outliers.csv \\
    --features=duplicates.features.npz

An image is odd if it is far from its nearest other images. The table lists the oddest ones; a
contact sheet is written beside it. docs/curating.md describes the files.
"""

from ssl_jax.run import flags as command_line
from ssl_jax.run.commands.outliers import Flags, outliers


def main(argv: list[str]) -> int:
    outliers(command_line.parse(argv, __doc__, Flags))
    return 0
