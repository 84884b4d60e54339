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
from ssl_jax.core.versions import versions

PRINTERS = (
    "checkpoints",
    "compile",
    "completion",
    "doctor",
    "methods",
    "results",
)  # their only output is what they print
HELP = ("--help", "-h", "help")
VERSION = "--version"


def subcommands() -> list[str]:
    """Names of the subcommands, sorted."""
    return sorted(module.name.rstrip("_") for module in pkgutil.iter_modules(__path__))


def module_of(name: str) -> str:
    """Module that implements a subcommand. Python keywords get a trailing underscore: `import_`."""
    return f"{__name__}.{name}" + ("_" if keyword.iskeyword(name) else "")


def main() -> None:
    """Run the console script. Errors that the user can fix print one line on stderr; exit code 2.

    A standard output that is closed, full or has no reader does not stop a command; at the end it
    makes the commands fail that only print.
    """
    out, argv = streams.endure(), sys.argv[1:]
    try:
        code = run(argv)
    except SystemExit as e:  # --help of a subcommand
        code = e.code if isinstance(e.code, int) else int(e.code is not None)
    out.flush()
    if isinstance(code, AtOnce):
        os._exit(code)
    prints = not argv or argv[0] in PRINTERS or any(word in (*HELP, VERSION) for word in argv)
    if out.error is not None and prints and not code:
        code = 128 + signal.SIGPIPE if out.error.errno == errno.EPIPE else 2
    sys.exit(code)


def run(argv: list[str]) -> int:
    """Run one subcommand and return the process's exit code."""
    # Set before importing jax, to silence its warnings about missing accelerators.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # A CPU device blocks a thread of XLA's pool while it waits for others in a collective. The pool
    # has a thread per device: on a busy machine none may be left for the last one, and XLA aborts.
    if (devices := os.environ.get("JAX_NUM_CPU_DEVICES", "")).isdecimal() and int(devices) > 1:
        os.environ.setdefault("PJRT_NPROC", str(max(4 * int(devices), os.cpu_count() or 1)))
    if logging.lastResort is not None:  # prints warnings, which may contain names from data
        logging.lastResort.setFormatter(_Visible())
        if not logging.root.handlers:  # or absl's first warning adds one that prints them raw
            logging.root.addHandler(logging.lastResort)
    try:
        if not argv or argv[0] in HELP:
            print("usage: ssl-jax SUBCOMMAND [--flag=value ...]\n")
            width = max(map(len, subcommands()))
            for name in subcommands():
                print(f"  {name:<{width}} {_summary(name)}")
            print(
                "\n`ssl-jax SUBCOMMAND --help` lists the flags of a subcommand, `ssl-jax --version`"
            )
            print("the versions.")
            return 0 if argv else 2
        if argv[0] == VERSION:
            packages = versions("ssl-jax", "jax", "jaxlib", "flax")
            print(", ".join(f"{name} {number}" for name, number in packages.items()))
            return 0
        if argv[0] not in subcommands():
            raise UserError(f"unknown subcommand {argv[0]!r}; {suggest(argv[0], subcommands())}")
        with trust.scope():
            return importlib.import_module(module_of(argv[0])).main(argv)
    except UserError as e:
        print(f"ssl-jax: {e}", file=sys.stderr)
        return 2
    except OSError as e:
        if (failure := of_system(e)) is None:
            raise
        print(f"ssl-jax: {failure[0]}", file=sys.stderr)
        return failure[1]
    except UnicodeEncodeError as e:
        print(
            f"ssl-jax: not valid UTF-8: {visible(e.object)[:200]}; rename the file", file=sys.stderr
        )
        return 2
    except SystemExit as e:
        if isinstance(e.code, AtOnce):  # of `core.stop.interruptible`
            return e.code
        raise
    except KeyboardInterrupt:
        print("ssl-jax: interrupted", file=sys.stderr)
        return 130


class _Visible(logging.Formatter):
    """Formatter that escapes terminal control characters; a traceback keeps its lines."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record), plain="\n\t")


def _summary(name: str) -> str:
    """Read the first line of a subcommand's docstring without importing it, and so without jax."""
    spec = importlib.util.find_spec(module_of(name))
    assert spec is not None and spec.origin is not None
    first = Path(spec.origin).read_text().splitlines()[0].strip('"')
    return first.removeprefix(f"`ssl-jax {name}`: ")
