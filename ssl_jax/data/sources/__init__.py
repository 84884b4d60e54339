"""Data sets by name: `digits`, `folder:/path`, `parquet:/glob`, ...; one scheme per module.

A scheme is a module of this package with `load(path, split) -> Source`. If its data may define an
evaluation part, it also has `held_out(path) -> Source | None`, and if `path` is not a path of
files, `absolute(path) -> str`. A scheme without a path has `EMBEDDED = True`. Modules are found by
name, so a new scheme is one new file.
"""

import contextlib
import importlib
import os
import pkgutil
import re
from collections.abc import Iterator
from contextvars import ContextVar
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Literal

from absl import logging

from ssl_jax.core import credentials
from ssl_jax.core.errors import UserError, suggest
from ssl_jax.data import files
from ssl_jax.data.listing import EXTENSIONS
from ssl_jax.data.sources.base import ArraySource, Source

__all__ = ["ArraySource", "Source", "absolute", "held_out", "open_source", "schemes"]

_ENDINGS = {  # endings of files that need no scheme
    "npz": (".npz",),
    "parquet": (".parquet",),
    "arrow": (".arrow", "dataset_dict.json"),
    "tar": (".tar", ".tar.gz", ".tgz"),
    "array_record": (".array_record",),
    "folder": (".txt", ".csv", ".lst", ".list"),
}
_LOOKED_AT = 1000  # files of a folder, to distinguish images from tables
_PLURAL = re.compile(r"^(1 (?:\S+ )?)(file|image|clip|label)s\b")
_logged: set[str] = set()
_later: ContextVar[list[str] | None] = ContextVar("later", default=None)


def schemes() -> tuple[str, ...]:
    """Return the names of all schemes."""
    return tuple(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base")


def open_source(spec: str, split: Literal["train", "eval"] = "train") -> Source:
    """Open the data set that `spec` ("scheme" or "scheme:path") names.

    An existing path needs no scheme: it is a folder, or a file with a known ending. A built-in name
    goes first; if a folder has it too, that is logged once.

    `split` matters only for data that define splits (`digits`, `tfds:NAME`, a folder with `train`
    and `val`); other data are the same for both. The number of files left out is logged once.

    Raises:
      UserError: an unknown scheme, a password in a URL, or missing, empty or malformed data.
    """
    module, path = _scheme(spec)
    if spec in schemes() and _is_built_in(spec) and _guess(spec):
        _log_once(f"{spec}: the built-in data of this name; write ./{spec} for what is here")
    with _as_user_errors(spec):
        source = module.load(path, split)
    for line in left_out(source):
        text = f"{source.name}: left out {line}"
        if (later := _later.get()) is not None:
            later.append(text)
        else:
            _log_once(text)
    return source


def left_out(source: Source) -> list[str]:
    """Return one line per reason for files left out: "1 file with other endings (1 .heic)"."""
    lines = [f"{count:,} {why}" for why, count in source.left_out.items()]
    return [_PLURAL.sub(r"\1\2", line) if line.startswith("1 ") else line for line in lines]


@contextlib.contextmanager
def left_out_is_shown() -> Iterator[None]:
    """Log what is left out only if an error comes first: the caller shows it otherwise."""
    texts: list[str] = []
    token = _later.set(texts)
    try:
        yield
    except Exception:
        for text in texts:
            _log_once(text)
        raise
    finally:
        _later.reset(token)


def _log_once(text: str) -> None:
    if text not in _logged:
        _logged.add(text)
        logging.warning("%s", text)


def absolute(spec: str) -> str:
    """Add the scheme to `spec` and make its paths absolute, so that it means the same in every
    folder; a spec that cannot be opened stays as it is.
    """
    try:
        module, path = _scheme(spec)
        whole = getattr(module, "absolute", files.absolute)(path)
    except (UserError, OSError, RuntimeError, ValueError):
        return spec
    return f"{module.__name__.rpartition('.')[2]}:{whole}" if whole else spec


def held_out(spec: str) -> Source | None:
    """Open the evaluation part that the data set `spec` defines; None if it defines none."""
    module, path = _scheme(spec)
    with _as_user_errors(spec):
        return module.held_out(path) if hasattr(module, "held_out") else None


@contextlib.contextmanager
def _as_user_errors(spec: str) -> Iterator[None]:
    """Turn system errors about names and files into a `UserError`."""
    try:
        yield
    except (OSError, RuntimeError, UnicodeError) as e:  # RuntimeError: raised for ~NOBODY
        reason = getattr(e, "strerror", None) or " ".join(str(e).split()) or type(e).__name__
        raise UserError(f"{spec}: {reason}") from None


def _scheme(spec: str) -> tuple[ModuleType, str]:
    credentials.refuse(spec, "data")
    name, _, path = spec.partition(":")
    needs_path = name == spec and name in schemes() and not _is_built_in(name)
    if (name not in schemes() or needs_path) and (guess := _guess(spec)):
        name, path = guess, spec
    if name not in schemes():
        expected = ", ".join(s if _is_built_in(s) else f"{s}:PATH" for s in schemes())
        hint = suggest(name, schemes()) if name else ""
        hint = f"; {hint}" if hint.startswith("did") else ""
        path_hint = _why_not(spec) if "/" in spec and ":" not in spec else ""
        raise UserError(f"unknown data {spec!r}: {path_hint}expected one of {expected}{hint}")
    return importlib.import_module(f"{__name__}.{name}"), path


def _is_built_in(scheme: str) -> bool:
    return getattr(importlib.import_module(f"{__name__}.{scheme}"), "EMBEDDED", False)


def _why_not(path: str) -> str:
    """Return why a path without a scheme cannot be opened, with "; "."""
    exists = os.path.lexists(path)
    return "a file of another kind; " if exists else "no such file or folder; "


def _guess(spec: str) -> str | None:
    """Guess the scheme of an existing path: of a folder by its files, of a file by its ending."""
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        path = Path(spec.partition("#")[0]).expanduser() if spec else Path("/nowhere")
        if path.is_file():
            scheme = _by_ending(path.name)
            return scheme if scheme in schemes() else None
        if path.is_dir():
            kinds = {_by_ending(f.name) for f in islice(path.iterdir(), _LOOKED_AT) if f.is_file()}
            tables = kinds & {"parquet", "arrow", "tar", "array_record"}
            return tables.pop() if len(tables) == 1 and kinds <= tables | {None} else "folder"
    return None


def _by_ending(name: str) -> str | None:
    if ".array_record" in name:
        return "array_record"
    if name.lower().endswith(EXTENSIONS):
        return "image"
    return next((k for k, ends in _ENDINGS.items() if name.lower().endswith(ends)), None)
