"""Whose code is run: files of Python that a user names, but none that a run brings along.

A run is data: somebody may have sent it. So a method or config file that lies in the folder of any
run is refused, unless the user says that its author is trusted.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

import ssl_jax
from ssl_jax.core.errors import UserError
from ssl_jax.core.plain import from_json

FLAG = "trust_code"
HELP = "run method and config files also where they lie in the folder of a run"
_trusted: ContextVar[bool] = ContextVar(FLAG, default=False)


@contextlib.contextmanager
def scope(trusted: bool = False) -> Iterator[None]:
    """Within, `allow` holds; it ends with the scope. `trusted`: it is called at once."""
    token = _trusted.set(_trusted.get() or trusted)
    try:
        yield
    finally:
        _trusted.reset(token)


def allow() -> None:
    """Trust the code in the folders of runs from now on, until the end of the scope."""
    _trusted.set(True)


def trusted() -> bool:
    """Whether `allow` was called in this scope."""
    return _trusted.get()


def check(path: Path, run: Path | None = None) -> None:
    """Whether the Python file `path` may be run.

    It may not where it, or what a link there leads to, lies below a folder with a run's
    config.json, or below `run`, which may have none yet.

    Raises:
      UserError: it may not.
    """
    if _trusted.get():
        return
    lexical = Path(os.path.abspath(path))  # noqa: PTH100  of a link the folder that it lies in
    for name in (lexical, path.resolve()):
        for folder in name.parents:
            if _is_run(folder) or (run is not None and folder == run.resolve()):
                raise UserError(
                    f"{path} lies in the folder of a run, {folder}, which holds no code; move it "
                    f"out of there and give its path, or add --{FLAG} if you trust its author"
                )


def _is_run(folder: Path) -> bool:
    """Whether it has a config.json that may be a run's: not that of another program."""
    try:
        found = from_json((folder / "config.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):
        return True
    return not isinstance(found, dict) or not found or "objective" in found


def python(module: str) -> tuple[list[str], dict[str, str]]:
    """A command that runs a module of ours in a new process, and its environment.

    `python -m` alone would import what lies in the current folder, a run's perhaps, in place of
    libraries of the same name.
    """
    ours = str(Path(ssl_jax.__file__).resolve().parent.parent)
    paths = [ours, *filter(None, [os.environ.get("PYTHONPATH")])]
    return [sys.executable, "-P", "-m", module], os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
