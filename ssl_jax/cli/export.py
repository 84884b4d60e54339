"""`ssl-jax export`: write the weights of a run for use elsewhere, with their origin.

ssl-jax export --workdir=W --format=safetensors --output=m.safetensors
ssl-jax export --workdir=W --format=timm --output=timm.safetensors
ssl-jax export --workdir=W --format=safetensors --output=all.safetensors --part=all
ssl-jax export --workdir=W --format=hf --output=my-model --license=apache-2.0
ssl-jax export --workdir=W --format=stablehlo --output=encoder.zip
ssl-jax export --workdir=W --format=onnx --output=encoder.onnx
"""

from ssl_jax.run import flags as command_line
from ssl_jax.run.commands.export import Flags, export


def main(argv: list[str]) -> int:
    export(command_line.parse(argv, __doc__, Flags))
    return 0
