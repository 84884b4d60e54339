"""`ssl-jax SUBCOMMAND ...`: each subcommand is a thin absl main in a module of this package,
imported when it is called.
"""

import importlib
import importlib.util
import keyword
import os
import pkgutil
import signal
import sys
from pathlib import Path

from ssl_jax.core.errors import UserError, suggest

# Modules here that are no subcommand.
HELPERS = (
    "auto",
    "compile_worker",
    "configs",
    "experiment",
    "flags",
    "load",
    "orbax",
    "parts",
    "pretrained",
    "restart",
    "sets",
    "table",
    "training",
    "weights_file",
)


def subcommands() -> list[str]:
    """Names of the subcommands, sorted."""
    modules = [m.name for m in pkgutil.iter_modules(__path__) if m.name not in HELPERS]
    return sorted(name.rstrip("_") for name in modules)


def _module(name: str) -> str:
    """Of a subcommand; a word of Python's has a line under it."""
    return f"{__name__}.{name}" + ("_" if keyword.iskeyword(name) else "")


def main() -> None:
    """The console script. Exit code 2 and one line on stderr for whatever the user can mend."""
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    sys.exit(code)


def run(argv: list[str]) -> int:
    """Run one subcommand and return the process's exit code."""
    # Told before jax is imported: the two lines it would print about chips that are not there.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        if not argv or argv[0] in ("--help", "-h", "help"):
            print("usage: ssl-jax SUBCOMMAND [--flag=value ...]\n")
            width = max(map(len, subcommands()))
            for name in subcommands():
                print(f"  {name:<{width}} {_summary(name)}")
            print("\n`ssl-jax SUBCOMMAND --help` lists the flags of one.")
            return 0 if argv else 2
        if argv[0] not in subcommands():
            raise UserError(f"unknown subcommand {argv[0]!r}; {suggest(argv[0], subcommands())}")
        return importlib.import_module(_module(argv[0])).main(argv)
    except UserError as e:
        print(f"ssl-jax: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ssl-jax: interrupted", file=sys.stderr)
        return 130


def _summary(name: str) -> str:
    """First line of a subcommand's docstring, read without importing it (and so without importing
    jax).
    """
    spec = importlib.util.find_spec(_module(name))
    assert spec is not None and spec.origin is not None
    first = Path(spec.origin).read_text().splitlines()[0].strip('"')
    return first.removeprefix(f"`ssl-jax {name}`: ")
