"""`ssl-jax views`: draw a picture of the network's inputs, each original beside its views.

ssl-jax views --config=simclr:imagenet --data=folder:/images --output=views.png
ssl-jax views --data=folder:/images --output=views.png

Without --config it shows the views of the config that `ssl-jax train` chooses for the images.
"""

from dataclasses import dataclass
from pathlib import Path

from ssl_jax.core.config import flag
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count
from ssl_jax.run import auto
from ssl_jax.run import flags as command_line
from ssl_jax.run.configs import configured, override
from ssl_jax.run.console import terminal
from ssl_jax.run.contact_sheet import contents, write_contact_sheet
from ssl_jax.run.experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class Flags(command_line.ConfigFlags):
    config: str = flag(
        "METHOD:RECIPE (simclr:digits) or PATH.py:RECIPE; by default what train would choose", ""
    )
    data: str = flag(
        "images: digits, folder:DIR, npz:FILE, ... (docs/data.md); by default the config's", ""
    )
    output: Path = flag("the picture to write, a .png")
    examples: Count = flag("number of images", 12)


def main(argv: list[str]) -> int:
    flags = command_line.parse(argv, __doc__, Flags)
    if not flags.config and not flags.data:
        raise UserError(
            "--config is missing: name a method and recipe, --config=simclr:digits, or only your "
            "images, --data=folder:/path"
        )
    output = flags.output
    if output.suffix.lower() != ".png":
        raise UserError(f"--output={output}: expected a name that ends in .png")
    overrides = [*flags.overrides, ("train.batch_size", flags.examples)]
    console = terminal()
    if flags.config:
        config = configured(flags.config, overrides, flags.data)
    else:
        config, reasons = auto.choose(flags.data, *auto.requested(overrides))
        console.print("no --config: the views that train chooses for these images")
        for key in ("objective.name", "objective.view"):
            console.print(f"  {reasons[key]}", markup=False)
        override(config, overrides)
    experiment = Experiment.from_config(config)
    write_contact_sheet(experiment, flags.examples, output, f"--output={output}")
    for line in experiment.survey.lines:
        console.print(line)
    console.print(f"{output}: {contents(experiment, flags.examples)}")
    return 0
