"""`ssl-jax predict`: write the labels that a fine-tuned classifier gives to images.

ssl-jax predict --workdir=C --data=folder:/images --output=predictions.csv
ssl-jax predict --workdir=C --data=folder:/images --output=predictions.parquet --top=5
ssl-jax predict --weights=classifier.safetensors --data=folder:/images --output=p.json --nopage

C is the folder that `ssl-jax finetune` has written. The table has a row per image, with its
likeliest classes and their calibrated confidences; a contact sheet is written beside it. A
classifier of several labels per image gives each image all labels from --threshold on.
"""

from ssl_jax.run import flags as command_line
from ssl_jax.run.commands.predict import Flags, predict


def main(argv: list[str]) -> int:
    predict(command_line.parse(argv, __doc__, Flags))
    return 0
