"""`ssl-jax import`: convert a public weights file to one of ours, and report what was used.

ssl-jax import --weights=moco_v2.pth.tar --output=moco.safetensors
ssl-jax import --weights=vit.safetensors --output=o.safetensors --config.backbone.heads=12
"""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.table import Table

from ssl_jax.core import hub
from ssl_jax.core.config import flag
from ssl_jax.core.errors import UserError
from ssl_jax.core.versions import versions
from ssl_jax.run import flags as command_line
from ssl_jax.run import orbax_export
from ssl_jax.run.configs import load_config, override
from ssl_jax.run.console import terminal
from ssl_jax.weights import conversion, files, networks
from ssl_jax.weights.networks import Weights
from ssl_jax.weights.releases import SIGNATURES

LISTED = 20  # names per line


@dataclass(frozen=True, kw_only=True)
class Flags(command_line.CommonFlags):
    weights: Path = flag(
        "file to read: safetensors, npz, PyTorch's .pth, a folder of `ssl-jax export`, or "
        "hf://USER/NAME"
    )
    output: Path = flag("file to write, .safetensors or .npz")
    config: str = flag(
        "METHOD:RECIPE whose backbone it is; by default inferred from names and shapes", ""
    )
    layout: str = flag(f"one of {', '.join(SIGNATURES)}; by default detected", "")
    prefix: str = flag("prefix of the network's names, if the file holds several networks", "")
    strict: bool = flag("refuse variables that are missing or of another shape", True)
    overrides: tuple[command_line.Override, ...] = flag(
        "a key of the backbone, --config.backbone.heads=12", (), shown="config.backbone.KEY"
    )


def main(argv: list[str]) -> int:
    flags = command_line.parse(argv, __doc__, Flags)
    source, output = flags.weights, flags.output
    if output.suffix not in files.FORMATS:
        raise UserError(f"--output={output}: expected a name that ends in .safetensors or .npz")
    config = load_config(flags.config) if flags.config else {}
    if flags.config:
        config.setdefault("backbone", {}).setdefault("name", "resnet")
    override(config, flags.overrides)
    weights = networks.of_file(
        orbax_export.read_any(hub.model(source)),
        str(source),
        config.get("backbone"),
        layout=flags.layout,
        prefix=flags.prefix or None,
        strict=flags.strict,
    )
    initialized = [] if flags.strict else completed(weights)
    tensors = {
        f"{role}/{path}" if len(weights.networks) > 1 else path: array
        for role, variables in weights.networks.items()
        for path, array in variables.items()
    }
    tensors |= {f"{networks.REST}/{path}": array for path, array in weights.rest.items()}
    files.write(output, tensors, card(weights, source))
    show(weights, initialized)
    terminal().print(
        f"{output}: start from it with {shlex.quote(f'--config.train.init_from={output}')}"
    )
    return 0


def card(weights: Weights, source: Path) -> dict[str, str]:
    """Return the metadata of the file, including those of the source."""
    return dict(weights.metadata) | {
        "format": networks.OWN,
        "encoder": weights.encoder,
        "backbone": json.dumps(dict(weights.backbone), sort_keys=True),
        "channels": str(weights.channels),
        "source": hub.beside(source).name,
        "imported": versions("ssl-jax")["ssl-jax"],
    }


def completed(weights: Weights) -> list[str]:
    """Initialize the variables that the backbones lack; return their paths."""
    fresh = conversion.flat(*jax.device_get(weights.net.init(jax.random.key(0))))
    initialized = []
    for variables in weights.networks.values():
        missing = [path for path in fresh if f"backbone/{path}" not in variables]
        added: Mapping[str, np.ndarray] = {f"backbone/{path}": fresh[path] for path in missing}
        assert isinstance(variables, dict)
        variables.update(added)
        initialized += missing
    return list(dict.fromkeys(initialized))


def show(weights: Weights, initialized: list[str]) -> None:
    """Print what was loaded, skipped, missing and initialized."""
    console, report = terminal(), weights.report
    console.print(f"found: {', '.join(report.networks)}")
    table = Table()
    for column in ("network", "part", "variables", "numbers"):
        table.add_column(column, justify="right" if column in ("variables", "numbers") else "left")
    for role, variables in weights.networks.items():
        groups: dict[str, list[Any]] = {}
        for path, array in variables.items():
            groups.setdefault(path.split("/")[0], []).append(array)
        note = " (the encoder)" if role == weights.encoder and len(weights.networks) > 1 else ""
        for name, arrays in groups.items():
            numbers = sum(array.size for array in arrays)
            table.add_row(role + note, name, str(len(arrays)), f"{numbers:,}")
    console.print(table, soft_wrap=False)
    settings = ", ".join(f"{key}={value!r}" for key, value in weights.backbone.items())
    console.print(f"backbone: {settings}; images of {weights.channels} channels")
    console.print(f"loaded: {report.loaded} tensors of the file")
    for name, names in (
        ("skipped", report.skipped),
        ("missing", report.missing),
        ("of another shape", report.wrong),
        ("initialized", tuple(initialized)),
    ):
        if names:
            more = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
            console.print(f"{name} ({len(names)}): {', '.join(names[:LISTED])}{more}")
