"""`ssl-jax methods`: list every method, its paper, its family, what it needs and its recipes.

ssl-jax methods

The small recipe of a method learns on two CPU cores without a download.
"""

import importlib
import inspect
from dataclasses import dataclass

from rich.table import Table

from ssl_jax.objectives.base import Objective
from ssl_jax.run import flags as command_line
from ssl_jax.run.configs import methods, recipes
from ssl_jax.run.console import styled, terminal


@dataclass(frozen=True, kw_only=True)
class Flags(command_line.CommonFlags):
    """No flags of its own."""


def main(argv: list[str]) -> int:
    command_line.parse(argv, __doc__, Flags)
    families: dict[str, Table] = {}
    for name in methods():
        family, paper, needs = describe(importlib.import_module(f"ssl_jax.objectives.{name}"))
        if family not in families:
            families[family] = Table.grid(padding=(0, 2, 0, 0))
            families[family].add_column(no_wrap=True)
        more = f"needs {needs}; recipes {offered(name)}"
        families[family].add_row(styled("  ", (name, "bold")), styled(f"{paper}\n", (more, "dim")))
    console = terminal()
    for family, table in sorted(families.items()):
        console.print(family)
        console.print(table, soft_wrap=False)
    return 0


def offered(name: str) -> str:
    """List the recipes of a method in one line."""
    if not (names := recipes(name)):
        return "none"
    small, paper, *others = names
    return ", ".join((f"{small} (small)", f"{paper} (the paper's)", *others))


def describe(module: object) -> tuple[str, str, str]:
    """Return (family, paper, needs) of a method's module."""
    doc = (inspect.getdoc(module) or "").splitlines()[0].rstrip(".")
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Objective) and value is not Objective
    ]
    method = next(value for value in own if value.__module__ == module.__name__)  # type: ignore[attr-defined]
    return method.family, doc, method.needs
