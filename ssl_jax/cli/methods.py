"""`ssl-jax methods`: list every method, its paper, its family, what it needs and its recipes.

ssl-jax methods

The small recipe of a method learns on two CPU cores without a download.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from ssl_jax.run import flags as command_line
from ssl_jax.run.catalog import methods
from ssl_jax.run.console import styled, terminal


@dataclass(frozen=True, kw_only=True)
class Flags(command_line.CommonFlags):
    """No flags of its own."""


def main(argv: list[str]) -> int:
    command_line.parse(argv, __doc__, Flags)
    families: dict[str, Table] = {}
    for name, method in methods().items():
        if method.family not in families:
            families[method.family] = Table.grid(padding=(0, 2, 0, 0))
            families[method.family].add_column(no_wrap=True)
        more = f"needs {method.needs}; recipes {offered(method.recipes)}"
        row = styled("  ", (name, "bold")), styled(f"{method.paper}\n", (more, "dim"))
        families[method.family].add_row(*row)
    console = terminal()
    for family, table in sorted(families.items()):
        console.print(family)
        console.print(table, soft_wrap=False)
    return 0


def offered(recipes: Sequence[str]) -> str:
    """List the recipes of a method in one line."""
    if not recipes:
        return "none"
    small, paper, *others = recipes
    return ", ".join((f"{small} (small)", f"{paper} (the paper's)", *others))
