"""`ssl-jax config`: list every key of a config with its value, type, default and help.

ssl-jax config simclr:digits
ssl-jax config simclr:digits --grep=lr
ssl-jax config simclr:imagenet --config.optim.lr=0.2 --save=mine.yaml
ssl-jax train --config=mine.yaml --workdir=W

A * marks values that differ from the default. --save writes the keys that the recipe and the
command line set; the others keep their defaults.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text

from ssl_jax.core.config import flag
from ssl_jax.core.errors import UserError
from ssl_jax.run import flags as command_line
from ssl_jax.run.configs import configured, write_config
from ssl_jax.run.console import styled, terminal
from ssl_jax.run.keys import ConfigKey, keys


@dataclass(frozen=True, kw_only=True)
class Flags(command_line.ConfigFlags):
    config: str = flag("METHOD:RECIPE (simclr:digits), PATH.py:RECIPE, or PATH.yaml")
    grep: str = flag("only keys whose name or help matches this regular expression", "")
    save: Path | None = flag("also write the config to this file, .py or .yaml", None)


def main(argv: list[str]) -> int:
    if len(argv) > 1 and not argv[1].startswith("-"):  # the config may be named without its flag
        argv = [argv[0], f"--config={argv[1]}", *argv[2:]]
    flags = command_line.parse(argv, __doc__, Flags)
    try:
        pattern = re.compile(flags.grep, re.IGNORECASE)
    except re.error as e:
        raise UserError(f"--grep={flags.grep}: not a regular expression: {e}") from None
    config = configured(flags.config, flags.overrides)
    every = list(keys(config))
    matching = [key for key in every if pattern.search(key.name) or pattern.search(key.help)]
    if flags.save:  # before anything is listed, as it may fail
        write_config(flags.save, config, flags.config)
    console = terminal()
    for key in matching:
        console.print(line(key))
    console.print(f"{len(matching)} of {len(every)} keys; set one with --config.NAME=VALUE")
    if flags.save:
        console.print(f"{flags.save}: ssl-jax train --config={flags.save} --workdir=W")
    return 0


def line(key: ConfigKey) -> Text:
    """Format a key: name, value, type and default, and below them its help."""
    default = f"default {key.default}" if key.changed and key.default else ""
    notes = "; ".join(filter(None, (key.kind, default)))
    mark = "*" if key.changed and key.default else " "
    more = f"  ({notes})" if notes else ""
    below = f"\n      {key.help}" if key.help else ""
    return styled((f"{mark} {key.name}", "bold"), f" = {key.value}", (more, "dim"), (below, "dim"))
