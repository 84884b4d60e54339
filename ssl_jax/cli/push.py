"""`ssl-jax push`: upload the encoder of a run, with a model card, to the Hugging Face hub.

ssl-jax push --workdir=W --repo=USER/NAME --license=apache-2.0
ssl-jax push --workdir=W --repo=USER/NAME --format=safetensors --public

It uploads the folder that `ssl-jax export --format=hf` writes. A new repository is private unless
--public is set. The token is the one of HF_TOKEN or of `hf auth login`; it is not written anywhere.
"""

from ssl_jax.run import flags as command_line
from ssl_jax.run.commands.push import Flags, push


def main(argv: list[str]) -> int:
    push(command_line.parse(argv, __doc__, Flags))
    return 0
