"""Trust in code: Python files that a user names are run, but none from the folder of a run.

A run is data that somebody else may have sent. So a method or config file in the folder of any run
is refused, unless the user declares its author as trusted.
"""

import contextlib
import importlib.util
import os
import sys
import types
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

import ssl_jax
from ssl_jax.core.errors import UserError
from ssl_jax.core.plain import from_json

FLAG = "trust_code"
_trusted: ContextVar[bool] = ContextVar(FLAG, default=False)


@contextlib.contextmanager
def scope(trusted: bool = False) -> Iterator[None]:
    """Limit `allow` to this scope; with `trusted`, code is trusted from the start."""
    token = _trusted.set(_trusted.get() or trusted)
    try:
        yield
    finally:
        _trusted.reset(token)


def allow() -> None:
    """Trust the code in the folders of runs until the end of the scope."""
    _trusted.set(True)


def trusted() -> bool:
    """True if `allow` was called in this scope."""
    return _trusted.get()


def check(path: Path, run: Path | None = None) -> None:
    """Check that the Python file `path` may be run.

    It may not if it, or the target of a link, lies below a folder with a run's config.json, or
    below `run`, which may have none yet.

    Raises:
      UserError: it may not be run.
    """
    if _trusted.get():
        return
    lexical = Path(os.path.abspath(path))  # noqa: PTH100 (keeps the folder of a link)
    for name in (lexical, path.resolve()):
        for folder in name.parents:
            if _is_run(folder) or (run is not None and folder == run.resolve()):
                raise UserError(
                    f"{path} lies in the folder of a run, {folder}, which holds no code; move it "
                    f"elsewhere and use that path, or add --{FLAG} if you trust its author"
                )


def load_file(path: Path, kind: str) -> types.ModuleType:
    """Import the module in a file that `check` allows; `kind` is part of its module name.

    Raises:
      UserError: a syntax error.
    """
    spec = importlib.util.spec_from_file_location(f"ssl_jax_{kind}_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module there
    try:
        spec.loader.exec_module(module)
    except SyntaxError as e:
        raise UserError(f"{path}, line {e.lineno}: {e.msg}") from None
    return module


def _is_run(folder: Path) -> bool:
    """True if the folder has a config.json that may be a run's, not another program's."""
    try:
        config = from_json((folder / "config.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):
        return True
    return not isinstance(config, dict) or not config or "objective" in config


def python(module: str) -> tuple[list[str], dict[str, str]]:
    """Return the command that runs a module of this package in a new process, and its environment.

    Plain `python -m` would import files in the current folder, perhaps a run's, in place of
    libraries of the same name.
    """
    package = str(Path(ssl_jax.__file__).resolve().parent.parent)
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return [sys.executable, "-P", "-m", module], os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
