"""`ssl-jax finetune`: make a classifier from a run and a few labelled images, with a report.

ssl-jax finetune --workdir=W --data=folder:/labelled --output=C
ssl-jax finetune --workdir=W --data=folder:/train --eval_data=folder:/test --output=C
ssl-jax finetune --weights=dino.pth --data=folder:/labelled --output=C
ssl-jax finetune --workdir=W --data=folder:/labelled --output=C --config.optim.lr=0.001

It fits a linear probe, fine-tunes the whole network from there, lets a held-out part of the labels
choose among them, and tests the result on images that nothing was learned from. Run an interrupted
command again to resume it. `ssl-jax predict` applies the classifier. docs/few_labels.md describes
the files.
"""

from ssl_jax.run import flags as command_line
from ssl_jax.run.commands.finetune import Flags, finetune


def main(argv: list[str]) -> int:
    code, _ = finetune(command_line.parse(argv, __doc__, Flags))
    return code
