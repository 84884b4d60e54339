"""`ssl-jax SUBCOMMAND ...`: each subcommand is a thin absl main in a module of this package,
imported when it is called.
"""

import errno
import importlib
import importlib.util
import keyword
import logging
import os
import pkgutil
import signal
import sys
from pathlib import Path

from ssl_jax.core import streams, trust
from ssl_jax.core.errors import AtOnce, UserError, of_system, suggest, visible

# Modules here that are no subcommand.
HELPERS = (
    "auto",
    "baselines",
    "compile_worker",
    "configs",
    "experiment",
    "flags",
    "load",
    "orbax",
    "parts",
    "pretrained",
    "restart",
    "sections",
    "sets",
    "table",
    "training",
    "weights_file",
)

PRINTERS = ("checkpoints", "compile", "methods", "results")  # what they print is all they make
HELP = ("--help", "-h", "help")


def subcommands() -> list[str]:
    """Names of the subcommands, sorted."""
    modules = [m.name for m in pkgutil.iter_modules(__path__) if m.name not in HELPERS]
    return sorted(name.rstrip("_") for name in modules)


def _module(name: str) -> str:
    """Of a subcommand; a word of Python's has a line under it."""
    return f"{__name__}.{name}" + ("_" if keyword.iskeyword(name) else "")


def main() -> None:
    """The console script. Exit code 2 and one line on stderr for whatever the user can mend.

    A standard output that is closed, full or has no reader ends no command: it makes those fail
    that do nothing but print.
    """
    out, argv = streams.endure(), sys.argv[1:]
    try:
        code = run(argv)
    except SystemExit as e:  # --help of a subcommand
        code = e.code if isinstance(e.code, int) else int(e.code is not None)
    out.flush()
    if isinstance(code, AtOnce):
        os._exit(code)
    prints = not argv or argv[0] in PRINTERS or any(word in HELP for word in argv)
    if out.error is not None and prints and not code:
        code = 128 + signal.SIGPIPE if out.error.errno == errno.EPIPE else 2
    sys.exit(code)


def run(argv: list[str]) -> int:
    """Run one subcommand and return the process's exit code."""
    # Told before jax is imported: the two lines it would print about chips that are not there.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if logging.lastResort is not None:  # what shows warnings, names from data in them
        logging.lastResort.setFormatter(_Visible())
    try:
        if not argv or argv[0] in HELP:
            print("usage: ssl-jax SUBCOMMAND [--flag=value ...]\n")
            width = max(map(len, subcommands()))
            for name in subcommands():
                print(f"  {name:<{width}} {_summary(name)}")
            print("\n`ssl-jax SUBCOMMAND --help` lists the flags of one.")
            return 0 if argv else 2
        if argv[0] not in subcommands():
            raise UserError(f"unknown subcommand {argv[0]!r}; {suggest(argv[0], subcommands())}")
        with trust.scope():
            return importlib.import_module(_module(argv[0])).main(argv)
    except UserError as e:
        print(f"ssl-jax: {e}", file=sys.stderr)
        return 2
    except OSError as e:
        if (said := of_system(e)) is None:
            raise
        print(f"ssl-jax: {said[0]}", file=sys.stderr)
        return said[1]
    except UnicodeEncodeError as e:
        print(f"ssl-jax: no UTF-8: {visible(e.object)[:200]}; rename the file", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ssl-jax: interrupted", file=sys.stderr)
        return 130


class _Visible(logging.Formatter):
    """Writes out what would steer a terminal; a traceback keeps its lines."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record), plain="\n\t")


def _summary(name: str) -> str:
    """First line of a subcommand's docstring, read without importing it (and so without importing
    jax).
    """
    spec = importlib.util.find_spec(_module(name))
    assert spec is not None and spec.origin is not None
    first = Path(spec.origin).read_text().splitlines()[0].strip('"')
    return first.removeprefix(f"`ssl-jax {name}`: ")
